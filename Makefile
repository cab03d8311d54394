# Octavo's verbs. `make demo` and `make test` are all that a new machine needs.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
CLUSTER := PYTHONPATH=e2e $(PY) -m cluster
PACKAGES := octavo_operator octavo_runtime octavo_kernels cluster

.PHONY: help
help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# --- set-up -----------------------------------------------------------------------------------------------------------

.PHONY: setup
setup: $(STAMP)  ## the developer's environment in .venv (done by every other verb)

$(STAMP): requirements/dev.txt requirements/bootstrap.txt operator/pyproject.toml runtime/pyproject.toml kernels/pyproject.toml \
		kernels/hatch_build.py $(wildcard kernels/native/*)
	@e2e/bootstrap.sh $(VENV)
	@touch $@

.PHONY: lock
lock: $(STAMP)  ## compile requirements/*.txt anew, with hashes and without index addresses
	@PATH=$(CURDIR)/$(VENV)/bin:$$PATH requirements/lock.sh

# --- checks -----------------------------------------------------------------------------------------------------------

.PHONY: check
check: $(STAMP)  ## format, lint, types, import contracts, generated files, every Triton kernel compiled for every GPU
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	PYTHONPATH=. $(VENV)/bin/lint-imports
	$(VENV)/bin/octavo-operator crd | diff -u crds/modelserver.yaml -
	e2e/check_repository.sh
	$(PY) -W error -m octavo_kernels.aot

.PHONY: generate
generate: $(STAMP)  ## write the generated files: the CRD and the chart's copy of it
	$(VENV)/bin/octavo-operator crd > crds/modelserver.yaml
	cp crds/modelserver.yaml charts/octavo/files/modelserver.yaml

.PHONY: format
format: $(STAMP)  ## format and fix what ruff can
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

.PHONY: test
test: $(STAMP)  ## fast tests: cores, kernels in the interpreter, HTTP API, a real API server; no root, no cluster
	$(CLUSTER) build --control-plane
	tests/lanes.sh

# --- the cluster and what runs on it ----------------------------------------------------------------------------------

.PHONY: cluster-up cluster-down images demo e2e
cluster-up: $(STAMP)  ## a real single-node Kubernetes on this machine (built once)
	$(CLUSTER) up

cluster-down: $(STAMP)  ## remove it and everything it made; the built binaries stay in the cache
	$(CLUSTER) down

images: $(STAMP)  ## build both images and load them into the local cluster
	$(CLUSTER) images

demo: $(STAMP)  ## the main job: from nothing to an answered chat request, a scale-up and a scale-down
	PYTHONPATH=e2e $(PY) -m demo $(DEMO_ARGS)

e2e: $(STAMP)  ## the demo and the end-to-end tests on the local cluster
	PYTHONPATH=e2e $(PY) -m demo
	PYTHONPATH=e2e $(PY) -m pytest e2e/tests -x

# --- figures ----------------------------------------------------------------------------------------------------------


.PHONY: bench
bench: $(STAMP)  ## step and scheduler speed on this machine, one JSON line each
	$(PY) runtime/bench/scheduler.py
	$(PY) runtime/bench/overlap.py
	$(PY) runtime/bench/step.py

.PHONY: soak
soak: $(STAMP)  ## kills, cancels, memory: what only repetition shows (minutes; OCTAVO_RECORD=1 keeps the figures)
	PYTHONPATH=e2e $(PY) -m soak $(SOAK_ARGS)
