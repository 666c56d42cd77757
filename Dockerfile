# The image of the agent, the operator and the chart's hooks:
#
#   buildah build --tag REGISTRY/pointsman:0.1.0 --build-arg VERSION=0.1.0 .        (or podman build, docker build)
#
# VERSION, and REVISION if you give it, go into the image's labels.
# A proxy for pip and apt goes into the standard build arguments (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).

# Both stages have the same base: the virtual environment is of its Python.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3-venv
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
COPY requirements.lock requirements-build.lock ./
# Exactly what the lock files say, checked by hash. /opt/pointsman has no pip: it is filled from outside. Containers have
# a read-only file system, so byte code is made here; but not of the many thousand models of the Kubernetes client, which
# are loaded one by one when they are used, and hardly any is.
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --requirement requirements-build.lock \
    && python3 -m venv --without-pip /opt/pointsman \
    && /opt/build/bin/pip --python /opt/pointsman/bin/python install --no-compile --only-binary :all: \
       --require-hashes --requirement requirements.lock \
    && /opt/pointsman/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
       -x 'kubernetes/(aio/)?client/(api|models)/[a-z]' /opt/pointsman/lib
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/build/bin/pip --python /opt/pointsman/bin/python install --no-compile --no-deps --no-index /wheels/*.whl \
    && /opt/pointsman/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/pointsman/lib/*/site-packages/pointsman \
    && /opt/pointsman/bin/pointsman --version

FROM ${BASE}
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="pointsman" \
      org.opencontainers.image.description="A Kubernetes Service proxy that asks the kernel for less" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# nftables is for people: `nft list ruleset` in an agent's container. The agent itself needs the library alone, and
# iptables (both of its variants) in the mode of that name.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends iptables libnftables1 nftables python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log
COPY --from=build /opt/pointsman /opt/pointsman
ENV PATH=/opt/pointsman/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Nobody in particular; the agent's DaemonSet asks for root, which NET_ADMIN needs.
USER 65532:65532
ENTRYPOINT ["pointsman"]
