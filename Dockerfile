# Prooftune in a container, as an unprivileged user that works in /work.
#
#   docker build -t prooftune .                                  CPU
#   docker build -t prooftune:cuda --build-arg DEVICE=cuda .     NVIDIA GPUs, with bitsandbytes
#
#   docker run --rm -v "$PWD:/work" prooftune run reviews.yaml
#   docker run --rm -v "$PWD:/work" --gpus all prooftune:cuda run reviews.yaml
#   docker run --rm -v "$PWD:/work" -p 8000:8000 prooftune serve runs/reviews/bundle --host 0.0.0.0 --keys keys.txt
#
# Models and data sets are cached in /cache; mount a volume there to keep them.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim-bookworm
ARG DEVICE=cpu
# The CPU kernels of training are compiled where they first run (docs/engine.md).
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY requirements /requirements
# PyPI has torch with CUDA. PyTorch's own index has 2.13.0+cpu, which pip prefers and which is a tenth of the size.
RUN case "$DEVICE" in \
      cpu) pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -r /requirements/torch.txt ;; \
      cuda) pip install --no-cache-dir -r /requirements/torch.txt \
            && pip install --no-cache-dir -c /requirements/run.txt -c /requirements/test.txt bitsandbytes ;; \
      *) echo "DEVICE is cpu or cuda, not $DEVICE" >&2; exit 1 ;; \
    esac
RUN pip install --no-cache-dir -r /requirements/run.txt
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir --no-deps /wheels/*.whl \
    && useradd --create-home --uid 1000 prooftune \
    && mkdir /work /cache && chown prooftune /work /cache
ENV PROOFTUNE_CACHE=/cache/prooftune HF_HOME=/cache/huggingface
USER 1000
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["prooftune"]
CMD ["--help"]
