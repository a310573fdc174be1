# The control plane: REST, WebSocket, scheduler, light nodes. Build from the root: docker build -f deploy/control-plane.Dockerfile .
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
RUN python3 -m venv /opt/dihedral
COPY requirements.lock ./
COPY deploy/extras/otel.lock ./deploy/extras/
RUN /opt/dihedral/bin/pip install --no-cache-dir --require-hashes -r requirements.lock -r deploy/extras/otel.lock
COPY pyproject.toml README.md LICENSE ./
COPY schemas ./schemas
COPY bridge ./bridge
COPY control_plane ./control_plane
COPY data_plane ./data_plane
COPY dihedral ./dihedral
RUN /opt/dihedral/bin/pip install --no-cache-dir --no-deps .

# Source mounted over /src; restarts when a file changes. Also what `codegen` runs in, and an editor (.devcontainer): with git, and a user whose home it may write.
FROM build AS tools
RUN apt-get update && apt-get install --yes --no-install-recommends git openssh-client && rm -rf /var/lib/apt/lists/* \
  && useradd --uid 1000 --home-dir /home/dev --no-create-home --shell /bin/bash dev && mkdir --mode 1777 /home/dev

FROM tools AS dev
COPY codegen ./codegen
RUN /opt/dihedral/bin/pip install --no-cache-dir --editable '.[dev,test]'
ENV PATH=/opt/dihedral/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/home/dev
CMD ["watchfiles", "--filter", "python", "dihedral control --host 0.0.0.0 --port 8000", "/src"]

FROM ${PYTHON_IMAGE} AS runtime
COPY --from=build /opt/dihedral /opt/dihedral
ENV PATH=/opt/dihedral/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp DIHEDRAL_LOGS__FORMAT=json
WORKDIR /work
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
ENTRYPOINT ["dihedral", "control"]
CMD ["--host", "0.0.0.0", "--port", "8000"]
