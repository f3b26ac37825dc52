# make demo   install, train both stages on drawn data, cut out a subject, show the picture
# make test   install, run the fast tests
# make check  format, lint, types, fast tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all check bench

demo: .venv/installed
	$(BIN)/python demo.py

test: .venv/installed
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-all: .venv/installed
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "slow or not slow"

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

bench: .venv/installed
	$(BIN)/python benchmarks/sample_rate.py
	$(BIN)/python benchmarks/training_step.py --stage base --train-resolution 512
	$(BIN)/python benchmarks/training_step.py --stage refine --train-resolution 512
	$(BIN)/python benchmarks/forward.py --resolution hd 4k
	$(BIN)/python benchmarks/pipeline.py --precision float32 bfloat16
	$(BIN)/python benchmarks/resolution_curve.py
	$(BIN)/python benchmarks/checkpoint_save.py
	$(BIN)/python benchmarks/resume.py
	$(BIN)/python benchmarks/record_growth.py
	$(BIN)/python benchmarks/video_memory.py --frames 300 3000

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@
