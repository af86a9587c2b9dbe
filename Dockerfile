# The operator's image: locked dependencies checked by hash, no build tools, no root.
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# The lock holds development tools too. So its wheels, each checked by hash, become the only place
# that the second step may install from, and of them only what the operator needs is installed.
COPY requirements.lock ./
RUN pip wheel --require-hashes --requirement requirements.lock --wheel-dir /wheels
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
RUN pip wheel --no-index --find-links /wheels --no-deps --wheel-dir /wheels . \
 && python -m venv /opt/llm-operator \
 && /opt/llm-operator/bin/pip install --no-index --find-links /wheels llm-operator \
 && /opt/llm-operator/bin/pip uninstall --yes pip setuptools

FROM ${PYTHON}
LABEL org.opencontainers.image.title="llm-operator" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/llm-operator /opt/llm-operator
ENV PATH=/opt/llm-operator/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /tmp
EXPOSE 8080
ENTRYPOINT ["llm-operator"]
CMD ["run"]
