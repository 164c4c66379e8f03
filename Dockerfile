# ScanLoom in a container: the steps of `make run` (bootstrap.sh python, components, serve), as a user without rights.
#
#   docker build -t scanloom .
#   docker run --init -p 127.0.0.1:8501:8501 -v scanloom:/data scanloom                 without a GPU
#   docker run --init --gpus all -p 127.0.0.1:8501:8501 -v scanloom:/data scanloom      with one (NVIDIA container toolkit)
#
# Publish the port on 127.0.0.1 as above, or put a proxy with a login before it: whoever reaches the port sees the scans.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SCANLOOM_HOME=/data \
    SCANLOOM_BEHIND_PROXY=1 \
    ADDRESS=0.0.0.0 \
    PORT=8501

WORKDIR /app

# The layers that change least come first: the Python packages, then the components, then our own code.
COPY bootstrap.sh requirements.txt constraints.txt ./
RUN ./bootstrap.sh python

COPY components components
RUN ./bootstrap.sh components && rm -rf components/node_modules components/build ~/.npm

# docker build --build-arg CLUSTER=yes: with Ray, for the machines of a cluster (docker-compose.cluster.yml).
ARG CLUSTER=no
COPY requirements-cluster.txt ./
RUN [ "$CLUSTER" = no ] || ./bootstrap.sh cluster

COPY . .
RUN .venv/bin/python -m compileall -q app.py builder pages tasks \
    && useradd --uid 10001 --create-home scanloom \
    && install -d -o scanloom -g scanloom /data

USER 10001
VOLUME ["/data"]
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD [".venv/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=4)"]

CMD ["./bootstrap.sh", "serve"]
