# One entry for everything. The tools come from requirements.lock, by hash, into .venv; the
# Kubernetes programs into a cache outside the checkout, the first time they are needed.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
READY := .venv/.ready
# More than there are cores: the tests wait for a cluster more than they compute.
WORKERS ?= 6
# A file is one piece: what its tests share is made once. tests/conftest.py says which goes first.
SHARED_OUT = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
PYTEST ?=
BENCH ?=
TRACE ?=
DEMO ?=

.PHONY: help
help: ## what there is to make
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: demo
demo: $(READY) ## the whole product on this machine, simulated GPUs (DEMO=--keep leaves it running)
	@$(BIN)/llm-operator demo $(DEMO)

.PHONY: demo-upgrade
demo-upgrade: $(READY) ## a model is upgraded, rolled back and drained while users talk to it
	@$(BIN)/llm-operator demo --upgrade $(DEMO)

.PHONY: demo-scale
demo-scale: $(READY) ## replicas follow a burst, by a real Prometheus, each decision explained
	@$(BIN)/llm-operator demo --scale $(DEMO)

.PHONY: test
test: programs ## lint, types, import contracts, all tests, also on a real control plane
	@# Side by side, as the tests wait more than they compute; what lint says comes last.
	@said=$$(mktemp); trap 'rm -f "$$said"' EXIT; $(MAKE) --no-print-directory lint >"$$said" 2>&1 & \
	tested=0; $(BIN)/pytest -q $(SHARED_OUT) -m "not load" $(PYTEST) || tested=$$?; \
	linted=0; wait $$! || linted=$$?; cat "$$said"; exit $$((tested || linted))

.PHONY: load
load: programs ## ten upgrades under traffic, drains, kills, lost nodes; and that the traffic can fail
	$(BIN)/pytest -q -m load $(PYTEST)

.PHONY: unit
unit: $(READY) ## the tests that need no control plane
	$(BIN)/pytest -q $(SHARED_OUT) -m "not cluster" $(PYTEST)

.PHONY: lint
lint: $(READY) ## ruff, mypy, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: fix
fix: $(READY) ## what ruff can put right by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: bench
bench: $(READY) ## the figures of docs/benchmarks.md, measured here (BENCH="latency writes": only these)
	@$(BIN)/python -m benchmarks $(BENCH)

.PHONY: trace
trace: $(READY) ## minutes of a recorded trace, with and without the scaler (TRACE=path of a CSV)
	@test -n "$(TRACE)" || { echo "TRACE=path names the trace: see docs/benchmarks.md" >&2; exit 1; }
	@$(BIN)/python -m benchmarks.trace $(TRACE) $(BENCH)

.PHONY: programs
programs: $(READY) ## fetch or build etcd, kube-apiserver, helm and the like
	@$(BIN)/llm-operator up --download-only

.PHONY: crds
crds: $(READY) ## generate from the models: CRD, its copy in the chart, field reference
	UPDATE_GOLDEN=1 $(BIN)/pytest -q tests/unit/test_api_crd.py -k fresh

.PHONY: lock
lock: $(READY) ## resolve the dependencies anew, into requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --upgrade \
		--generate-hashes --no-header --no-emit-index-url pyproject.toml -o requirements.lock

.PHONY: clean
clean: ## remove what was made here (not the cache of Kubernetes programs)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .bench dist
	find operator tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@for python in $${PYTHON:-} python3.11 python3.12 python3.13 python3.14 python3; do \
		if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
			2>/dev/null; then break; fi; python=; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Python 3.11 or newer, with venv (Debian: python3-venv), is needed; PYTHON=... names it" >&2; \
		exit 1; \
	fi; \
	echo "making .venv with $$($$python --version)"; \
	$$python -m venv .venv; \
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements.lock; \
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation -e .; \
	touch $@
