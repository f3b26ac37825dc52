# The toolkit on a machine without a display.
#   docker build -t bgmatting .                             for CPUs
#   docker build -t bgmatting --build-arg TORCH=cu130 .     for NVIDIA GPUs; run it with --gpus all
#   docker run --rm -v "$PWD/demo_output:/toolkit/demo_output" bgmatting
#   docker run --rm -v "$PWD:/data" -w /data --shm-size 4g bgmatting  bgmatting images ...
FROM python:3.11-slim
# A folder of https://download.pytorch.org/whl: cpu, or that of a CUDA version, which its wheels bring along.
ARG TORCH=cpu
ENV OPENCV=opencv-python-headless PATH=/toolkit/.venv/bin:$PATH
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /toolkit
# Only what an installation reads, so that other changes do not repeat it.
COPY Makefile pyproject.toml constraints.txt README.md LICENSE bgmatting.py ./
RUN PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/$TORCH PIP_NO_CACHE_DIR=1 make install
COPY . .
# Copied files can be newer than the installation, which make would then repeat.
RUN touch .venv/installed
CMD ["make", "demo"]
