# The demo application of docker-compose.observability.yml. Both stages need the same Python at the same place.
ARG BASE=python:3.13.16-slim-trixie

FROM ${BASE} AS build
WORKDIR /source
COPY . .
RUN python -m venv /opt/demo \
 && /opt/demo/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
 && /opt/demo/bin/pip install --no-cache-dir "$(echo /wheels/breakerscope-*.whl)[demo]"

FROM ${BASE}
COPY --from=build /opt/demo /opt/demo
ENV PATH=/opt/demo/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
ENTRYPOINT ["breakerscope"]
CMD ["demo", "--headless"]
