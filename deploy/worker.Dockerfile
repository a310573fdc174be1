# A worker of the data plane. Build from the root: docker build -f deploy/worker.Dockerfile . (--build-arg EXTRA=gpu-cuda12 for a GPU:
# CUDA comes as wheels, the host needs the driver and the NVIDIA container toolkit).
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm

# With a font for captions: the one inside Pillow has little but ASCII.
FROM ${PYTHON_IMAGE} AS base
RUN apt-get update && apt-get install --yes --no-install-recommends fonts-dejavu-core && rm -rf /var/lib/apt/lists/*

FROM base AS build
ARG EXTRA=""
WORKDIR /src
RUN python3 -m venv /opt/dihedral
COPY requirements.lock ./
COPY deploy/extras ./deploy/extras
RUN /opt/dihedral/bin/pip install --no-cache-dir --require-hashes -r requirements.lock -r deploy/extras/otel.lock \
  ${EXTRA:+-r deploy/extras/${EXTRA}.lock}
COPY pyproject.toml README.md LICENSE ./
COPY schemas ./schemas
COPY bridge ./bridge
COPY control_plane ./control_plane
COPY data_plane ./data_plane
COPY dihedral ./dihedral
RUN /opt/dihedral/bin/pip install --no-cache-dir --no-deps .

# Source mounted over /src; restarts when a file changes. Also what an editor starts (.devcontainer): with git, and a user whose home it may write.
FROM build AS tools
RUN apt-get update && apt-get install --yes --no-install-recommends git openssh-client && rm -rf /var/lib/apt/lists/* \
  && useradd --uid 1000 --home-dir /home/dev --no-create-home --shell /bin/bash dev && mkdir --mode 1777 /home/dev

FROM tools AS dev
RUN /opt/dihedral/bin/pip install --no-cache-dir --editable '.[dev]'
ENV PATH=/opt/dihedral/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/home/dev
CMD ["watchfiles", "--filter", "python", "dihedral worker --host 0.0.0.0 --port 9100", "/src"]

FROM base AS runtime
COPY --from=build /opt/dihedral /opt/dihedral
ENV PATH=/opt/dihedral/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp DIHEDRAL_LOGS__FORMAT=json
WORKDIR /work
USER 10001:10001
EXPOSE 9100
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9100/health/ready', timeout=4)"]
ENTRYPOINT ["dihedral", "worker"]
CMD ["--host", "0.0.0.0", "--port", "9100"]
