# The gateway with its embedded store, run by a non-root user.
#
#     docker build --tag cmdc-gateway .
#     docker run --publish 4000:4000 --volume cmdc-data:/data --env GATEWAY_API_KEYS=a-long-secret cmdc-gateway
#
# GATEWAY_API_KEYS is required: without a configured key the gateway refuses to listen beyond loopback.

FROM python:3.11-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/cmdc-gateway
ENV PATH=/opt/cmdc-gateway/bin:$PATH

# Dependencies first, because they change rarely. The build backend is pinned too, so everything is installed with a hash.
COPY requirements/server.txt /src/requirements/
RUN python -m pip install --require-hashes --requirement /src/requirements/server.txt
COPY server/ /src/server/
RUN python -m pip install --no-deps --no-build-isolation /src/server


FROM python:3.11-slim-bookworm

COPY --from=build /opt/cmdc-gateway /opt/cmdc-gateway
# A new volume inherits the owner of this directory.
RUN install --directory --owner=10001 --group=10001 /data

ENV PATH=/opt/cmdc-gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GATEWAY_HOST=0.0.0.0 \
    GATEWAY_PORT=4000 \
    GATEWAY_STORE=sqlite:////data/cmdc-gateway.db

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 4000

HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"GATEWAY_PORT\"]}/healthz', timeout=2)"]

CMD ["cmdc-gateway", "serve"]
