# make demo   install, cut out a photograph and drawn subjects, show the picture; fine-tune, cut out again
# make test   install, run the fast tests
# make check  format, lint, types, fast tests
# make gpu    on a GPU: is all right there, and how fast; OUT=gpu_out MINUTES=9
# On a machine without a display: make demo OPENCV=opencv-python-headless
PYTHON ?= python3
OPENCV ?= opencv-python
OUT ?= gpu_out
MINUTES ?= 9
BIN := .venv/bin

# Whole files to a process, in the order of tests/conftest.py: xdist's own, by the number of tests, ends with long ones.
PYTEST := -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: install demo test test-all check bench gpu

install: .venv/installed

demo: .venv/installed
	$(BIN)/python demo.py

test: .venv/installed-test
	$(BIN)/python $(PYTEST)

test-all: .venv/installed-test-all
	$(BIN)/python $(PYTEST) -m "slow or not slow"

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python $(PYTEST)

bench: .venv/installed-test-all
	$(BIN)/python benchmarks/sample_rate.py
	$(BIN)/python benchmarks/data_sources.py
	$(BIN)/python benchmarks/training_step.py --stage base --train-resolution 512
	$(BIN)/python benchmarks/training_step.py --stage refine --train-resolution 512
	$(BIN)/python benchmarks/forward.py --resolution hd 4k
	$(BIN)/python benchmarks/pipeline.py --precision float32 bfloat16
	$(BIN)/python benchmarks/resolution_curve.py
	$(BIN)/python benchmarks/checkpoint_save.py
	$(BIN)/python benchmarks/resume.py
	$(BIN)/python benchmarks/record_growth.py
	$(BIN)/python benchmarks/mirror.py
	$(BIN)/python benchmarks/plate_warnings.py
	$(BIN)/python benchmarks/video_memory.py --frames 300 3000

gpu: .venv/installed-test
	$(BIN)/python benchmarks/gpu.py --out $(OUT) --minutes $(MINUTES)

# The project names opencv-python. Another build of OpenCV lies in the same place, so it comes after that has gone.
define pip_install
	$(BIN)/python -m pip install -c constraints.txt -e '.$(1)'
	@if [ $(OPENCV) != opencv-python ]; then \
	  $(BIN)/python -m pip uninstall -q -y opencv-python && \
	  $(BIN)/python -m pip install -c constraints.txt $(OPENCV); fi
	touch $@
endef

.venv/installed: pyproject.toml constraints.txt
	@echo 'Installing PyTorch, OpenCV and smaller packages into .venv: 3.2 GB to download and 5.7 GB of disk on Linux,'
	@echo 'with CUDA; less without. It takes some minutes.'
	$(PYTHON) -m venv .venv
	$(call pip_install)

.venv/installed-test: .venv/installed
	@echo 'Installing what only tests and exports need, such as coremltools, onnx and scikit-learn: 0.15 GB to download.'
	$(call pip_install,[test])

.venv/installed-test-all: .venv/installed-test
	@echo 'Installing the S3 server of the slow tests.'
	$(call pip_install,[test-all])

.venv/installed-dev: .venv/installed-test
	@echo 'Installing ruff, mypy and pre-commit: 0.05 GB to download.'
	$(call pip_install,[dev])
