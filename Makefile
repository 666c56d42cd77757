# Every target sets up first what is missing (scripts/setup); that takes no time when it is there.
# ARGS="..." goes to the program behind a target: make lab ARGS=--keep, make test ARGS="-k affinity".

.DEFAULT_GOAL := help
PYTHON := .venv/bin/python

.PHONY: help setup lab cluster vm test conformance bench bench-cluster bench-ipvs bench-userspace format lint docs lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

setup: ## install Debian packages and .venv, where they are missing
	@scripts/setup

lab: setup ## a small cluster on this machine: real connections through real rules
	@$(PYTHON) -m pointsman lab $(ARGS)

cluster: setup ## a cluster with a real API server, kept up for kubectl (builds it with Go: 12 minutes, once)
	@$(PYTHON) -m pointsman lab --cluster --keep $(ARGS)

vm: ## a command as root in a virtual machine whose kernel has IPVS; ARGS="ipvsadm -Ln"
	@scripts/setup cluster
	@$(PYTHON) -m pointsman.lab.vm $(ARGS)

test: ## every check and test, up to a real cluster (builds it with Go: 25 minutes, once)
	@scripts/setup cluster
	@scripts/test $(ARGS)

conformance: ## Kubernetes' own tests of Services, with Pointsman and with kube-proxy; ARGS=--write keeps the result
	@scripts/setup cluster
	@PYTHONPATH=tests $(PYTHON) -m conformance $(ARGS)

bench: setup ## measure speed and memory; prints a table, writes bench-results.json
	@$(PYTHON) tests/benchmarks $(ARGS)

bench-ipvs: ## measure the mode ipvs beside ipvsadm --restore, in a virtual machine where the kernel has no IPVS
	@scripts/setup cluster
	@$(PYTHON) tests/benchmarks/bench_ipvs.py $(ARGS)

bench-userspace: setup ## measure the mode userspace beside the mode nftables
	@$(PYTHON) tests/benchmarks/bench_userspace.py $(ARGS)

bench-cluster: setup ## measure the agent beside kube-proxy on a real API server; writes bench-cluster-results.json
	@$(PYTHON) tests/benchmarks/bench_cluster.py $(ARGS)

format: setup ## format the code and mend what ruff can mend
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format .

lint: setup ## the checks of `make test` without the tests
	@scripts/check

docs: setup ## write docs/configuration.md, crds/ and the chart's made files anew from the typed model
	@$(PYTHON) -m pointsman.api.reference --write
	@$(PYTHON) -m pointsman.api.crds --write
	@$(PYTHON) -m pointsman.api.chart --write

lock: setup ## renew the lock files from pyproject.toml
	@scripts/lock $(ARGS)

clean: ## remove .venv and everything else that was made here
	@rm -rf .venv build dist bench-results.json bench-cluster-results.json
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find operator tests -name __pycache__ -prune -exec rm -rf {} +
