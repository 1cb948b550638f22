# `make demo` and `make test` do everything; the rest are their parts. Run as root on Debian 12
# with Python 3.11 and Go 1.26.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

TWINVAULT_CACHE ?= /var/cache/twinvault
export TWINVAULT_CACHE
SOURCES := core kube engine operator csi
export PYTHONPATH := $(subst $() ,:,$(addprefix $(CURDIR)/,$(SOURCES)):$(CURDIR))
export PYTHONDONTWRITEBYTECODE := 1

VENV := $(TWINVAULT_CACHE)/venv-$(shell cat requirements.txt requirements-dev.txt tools/venv.sh | sha256sum | cut -c1-12)
PYTHON := $(VENV)/bin/python
PYTEST := $(PYTHON) -m pytest
LAB := python3 -m e2e.lab
UNIT_TESTS := $(filter-out tests/root/ tests/uml/ tests/api/ tests/sanity/ tests/support/,$(wildcard tests/*/))

.PHONY: help
help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 14

.PHONY: demo
demo: host venv ## Two-site lab, Helm install, a hospital at work at both sites
	$(PYTHON) -m e2e.demo up

.PHONY: demo-failover
demo-failover: host venv ## East loses its power while patients are registered; then it comes back
	$(PYTHON) -m e2e.demo_failover

.PHONY: demo-down
demo-down: ## Remove the lab and everything in it
	$(LAB) down

.PHONY: test
test: host venv ## All set-up and all tests: first those without the lab, then the lab's
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory unit
	$(MAKE) --no-print-directory binaries
	$(MAKE) --no-print-directory root
	TWINVAULT_KILL_STRIDE=1 $(MAKE) --no-print-directory api
	$(MAKE) --no-print-directory sanity
	$(MAKE) --no-print-directory e2e

.PHONY: lint
lint: venv ## ruff, mypy, import contracts, chart, schemas, generated files
	@$(PYTHON) tools/lint.py

.PHONY: format
format: venv ## Format the sources
	$(PYTHON) -m ruff check --fix-only --quiet .
	$(PYTHON) -m ruff format --quiet .

.PHONY: unit
unit: venv ## Tests that need nothing: seconds
	$(PYTEST) $(UNIT_TESTS)

.PHONY: root
root: host venv ## Tests on real devices
	$(PYTEST) tests/root

.PHONY: api
api: host venv binaries ## Tests against a real API server
	$(PYTEST) tests/api

.PHONY: sanity
sanity: host venv binaries ## csi-sanity against the real processes
	$(PYTHON) -m tests.sanity.run

.PHONY: uml
uml: host venv ## Replication on two bare kernels with DRBD, without Kubernetes: some minutes
	timeout --kill-after=30 3600 $(PYTEST) tests/uml

.PHONY: e2e
e2e: host venv ## Tests in the two-site lab
	$(LAB) up
	$(PYTEST) e2e/tests

SEED ?= 1
RUNS ?= 3
CLASS ?= twinvault-metro
.PHONY: faults
faults: host venv ## Seeded faults under load: SEED=n RUNS=m, FAULT=name, CLASS=storage class, LOG=file
	$(LAB) up
	$(PYTHON) -m e2e.faults --seed $(SEED) --runs $(RUNS) --storage-class $(CLASS) $(if $(FAULT),--fault $(FAULT)) $(if $(LOG),--log $(LOG))

.PHONY: bench
bench: host venv ## Figures of docs/performance.md, one JSON object each: BENCH="rto link_cut" ROUNDS=5
	$(LAB) up
	$(PYTHON) -m bench $(BENCH) $(if $(ROUNDS),--rounds $(ROUNDS))

.PHONY: host
host: ## The Debian packages that the lab and the tests use
	@python3 -m e2e.lab.host

.PHONY: binaries
binaries: host ## The Go programs of the lab, in the cache
	@python3 -m e2e.lab.binaries

.PHONY: venv
venv: $(VENV)/.complete

$(VENV)/.complete:
	@tools/venv.sh "$(VENV)"

.PHONY: protos
protos: venv ## Generate the CSI protobufs again
	$(PYTHON) tools/generate_protos.py

.PHONY: crds
crds: venv ## Copy the CRDs into the chart
	$(PYTHON) tools/sync_crds.py

.PHONY: generate
generate: protos crds ## Everything that is generated and checked in
