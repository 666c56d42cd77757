# The image of Kubernetes' end-to-end tests, with the programs of its own that tests of Services call.
ARG BASE
FROM ${BASE}
RUN apt-get update \
 && apt-get install --yes --no-install-recommends curl wget netcat-openbsd iproute2 dnsutils \
 && rm -rf /var/lib/apt/lists/*
COPY agnhost /agnhost
RUN ln -s agnhost /agnhost-2 && mkdir -p /uploads
ENTRYPOINT ["/agnhost"]
CMD ["pause"]
