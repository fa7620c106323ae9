# Nexus: everything a user or a contributor runs. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHOP := examples/shop
BED := $(BIN)/python tests/cluster/bed.py

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# ---- set-up. Each stamp is older than what it was made from only when something changed, so a second run starts at once.

$(VENV)/.run-stamp: pyproject.toml constraints.txt scripts/venv.sh
	@PYTHON="$(PYTHON)" scripts/venv.sh run
	@touch $@

$(VENV)/.dev-stamp: pyproject.toml constraints.txt scripts/venv.sh
	@PYTHON="$(PYTHON)" scripts/venv.sh dev
	@touch $@ $(VENV)/.run-stamp

.PHONY: install dev system components
install: $(VENV)/.run-stamp ## the virtual environment with all that Nexus needs to run
dev: $(VENV)/.dev-stamp ## the same, with the tools for tests
system: ## Debian packages the tests need (as root; otherwise prints the one command)
	@scripts/debian.sh test
components: dev system ## Go components of the test cluster, built once into ~/.cache/nexus-testbed
	@$(BED) build

# ---- using it

.PHONY: run tour
run: install ## start the example shop on this machine: gateway on 127.0.0.1:8080, admin API on 127.0.0.1:8081
	@exec $(BIN)/nexus up $(SHOP)
tour: install ## walk the journey against what `make run` or a cluster runs (NEXUS_TOUR_GATEWAY, NEXUS_TOUR_ADMIN)
	@exec $(BIN)/nexus tour

# ---- testing it

.PHONY: test test-all conformance h2spec lint test-fast format
test: dev system components lint ## every test: units, real components, the cluster, the browser
	@$(BIN)/python -m pytest
test-all: test conformance ## every test, the whole conformance suite of the Gateway API, and 3,000 routes each found once it is Ready
	@NEXUS_ROUTES_IN_A_ROW=3000 $(BIN)/python -m pytest tests/cluster/test_data_planes.py -k found_by_the_next_request
conformance: dev system components ## the Gateway API's conformance suite, every profile on both channels; writes docs/conformance
	@$(BIN)/python tests/conformance/gateway_api/run.py --channel experimental --write
	@$(BIN)/python tests/conformance/gateway_api/run.py --channel standard --write
h2spec: dev ## the HTTP/2 listener against h2spec, in clear and over TLS
	@$(BIN)/python scripts/h2spec.py
test-fast: dev ## what needs neither root nor built components
	@$(BIN)/python -m pytest -m "not cluster and not connected and not browser"
lint: dev ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache | tail -n 12
format: dev ## let ruff mend what it can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

.PHONY: generate
generate: dev ## rewrite every generated file (CRDs, references); the tests diff them
	@$(BIN)/python scripts/generate.py

.PHONY: plugins
plugins: dev ## build and sign the bundled plugins after a change to one
	@$(BIN)/python scripts/publish_plugins.py

# ---- the test cluster, to play with

.PHONY: cluster cluster-down
cluster: components ## a real control plane, Consul, Jaeger and the shop on this machine; prints how to use it
	@$(BED) up --with consul,jaeger,nats --gateway-api
	@PYTHONPATH=tests/cluster $(BIN)/python tests/cluster/play.py
cluster-down: dev ## take it down and remove every trace
	@$(BED) down

# ---- measuring it

.PHONY: bench bench-control bench-plugins bench-micro profile churn
bench: dev ## the gateway beside Envoy (plain, all features), nginx, HAProxy, Caddy and aiohttp, ~20 min; QUICK=1 for 3 min
	@scripts/debian.sh bench
	@$(BIN)/python benchmarks/gateway/bench.py $(if $(QUICK),--quick)
	@$(if $(QUICK),true,$(BIN)/python benchmarks/report.py)
bench-control: components ## what the control plane costs: translation, operator memory, edit to served request, series
	@$(BIN)/python benchmarks/control/bench.py $(if $(QUICK),--quick) $(PARTS)
	@$(if $(QUICK)$(PARTS),true,$(BIN)/python benchmarks/report.py)
bench-plugins: dev ## what plugins cost a request, beside none, Lua in Envoy, and a call to another process
	@scripts/debian.sh bench
	@$(BIN)/python benchmarks/plugins/bench.py $(if $(QUICK),--quick)
	@$(if $(QUICK),true,$(BIN)/python benchmarks/report.py)
bench-micro: dev ## nanoseconds of each decision of the data path, alone
	@$(BIN)/python benchmarks/gateway/micro.py
profile: dev ## where the gateway's hot path spends its time: a table and a flame graph in benchmarks/results
	@scripts/debian.sh bench
	@$(BIN)/python benchmarks/gateway/hot_path.py
churn: dev ## requests while everything around them changes: what is lost (nothing) and what it costs; prints the table
	@PYTHONPATH=tests/integration $(BIN)/python -m churn --out benchmarks/results/churn.json
