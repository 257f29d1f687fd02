# The gateway with its embedded store, run by a user without rights.
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

# What changes seldom comes first. The build backend is among the pinned packages, so nothing comes in without its hash.
COPY requirements/server.txt /src/requirements/
RUN python -m pip install --require-hashes --requirement /src/requirements/server.txt
COPY server/ /src/server/
RUN python -m pip install --no-deps --no-build-isolation /src/server


FROM python:3.11-slim-bookworm

COPY --from=build /opt/cmdc-gateway /opt/cmdc-gateway
# A volume takes over the owner of the folder that it covers.
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
