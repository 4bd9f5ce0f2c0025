# syntax=docker/dockerfile:1
# docker build --target cpu  -t visprobe:cpu .
# docker build --target cuda -t visprobe:cuda .

FROM python:3.11.14-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY visprobe visprobe
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --wheel-dir /wheels .


FROM python:3.11.14-slim-bookworm AS cpu
ENV PATH=/opt/visprobe/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    VISPROBE_CACHE=/cache \
    HF_HOME=/cache/huggingface \
    MPLCONFIGDIR=/cache/matplotlib
# Any user may write to the cache, because --user takes any number.
RUN useradd --uid 10001 --create-home visprobe && \
    mkdir /data /checkpoints /work /cache && \
    chmod 1777 /work /cache && \
    python3 -m venv /opt/visprobe
# Without its dependencies: this index has few versions of them. The next step brings those that are pinned.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-deps --constraint /constraints.txt --index-url https://download.pytorch.org/whl/cpu torch
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --constraint /constraints.txt "visprobe[train,cpu,gguf] @ file://$(echo /wheels/*.whl)"
USER 10001
WORKDIR /work
VOLUME ["/data", "/checkpoints", "/cache"]
ENTRYPOINT ["visprobe"]
CMD ["--help"]


# The wheels of torch bring the CUDA libraries that they need; the image brings what the driver is reached through.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04 AS cuda
ENV PATH=/opt/visprobe/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    VISPROBE_CACHE=/cache \
    HF_HOME=/cache/huggingface \
    MPLCONFIGDIR=/cache/matplotlib
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install --yes --no-install-recommends python3 python3-venv && \
    rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home visprobe && \
    mkdir /data /checkpoints /work /cache && \
    chmod 1777 /work /cache && \
    python3 -m venv /opt/visprobe
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-deps --constraint /constraints.txt --index-url https://download.pytorch.org/whl/cu130 torch
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --constraint /constraints.txt "visprobe[train,cuda,gguf] @ file://$(echo /wheels/*.whl)"
USER 10001
WORKDIR /work
VOLUME ["/data", "/checkpoints", "/cache"]
ENTRYPOINT ["visprobe"]
CMD ["--help"]
