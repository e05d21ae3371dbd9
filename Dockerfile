# The image of chatsvc: the wheel is built and installed in a first stage, the second one only runs it.
# Another base with Python 3.11 will do as well: --build-arg BASE=…
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /source
COPY deploy/build-constraints.txt deploy/constraints.txt deploy/
# Whatever is downloaded has to have a hash that stands in these files. The server's environment gets no pip.
RUN python3 -m venv /build \
 && /build/bin/pip install --no-cache-dir --require-hashes -r deploy/build-constraints.txt \
 && python3 -m venv --without-pip /opt/chatsvc \
 && /build/bin/pip --python /opt/chatsvc/bin/python install --no-cache-dir --require-hashes -r deploy/constraints.txt
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY chatsvc chatsvc
COPY twisted twisted
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /build/bin/pip --python /opt/chatsvc/bin/python install --no-deps --no-index /wheels/*.whl \
 && /build/bin/pip --python /opt/chatsvc/bin/python check \
 && /build/bin/cyclonedx-py environment --output-reproducible \
      --output-file /opt/chatsvc/sbom.cdx.json /opt/chatsvc/bin/python

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="chatsvc" \
      org.opencontainers.image.description="A self-hosted one-to-one chat server that loses nothing" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY --from=build /opt/chatsvc /opt/chatsvc
COPY deploy/healthcheck.py /opt/chatsvc/healthcheck.py
ENV PATH=/opt/chatsvc/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CHATSVC_DATA_DIR=/data \
    CHATSVC_LISTEN=tcp:8080 \
    CHATSVC_HTTP=tcp:9180:interface=127.0.0.1

# The cache of plugins is made here, as the server may not write it. The uid is fixed, so that what lies in
# a volume belongs to the next version as well.
RUN twistd --help > /dev/null \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin chatsvc \
 && install --directory --owner=10001 --group=10001 --mode=0700 /data

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "/opt/chatsvc/healthcheck.py"]
ENTRYPOINT ["twistd", "-n", "--pidfile=", "chatsvc"]
