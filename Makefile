VENV = .venv
BIN = $(VENV)/bin

.PHONY: help install dev up test test-compose check bench

help:
	@echo "make up             run a cluster of three nodes here (Ctrl-C stops it)"
	@echo "make test           run the tests"
	@echo "make test-compose   run the tests of deploy/compose (needs a container engine)"
	@echo "make check          lint, types, import rules"
	@echo "make bench          measure failover times"

install: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[embedded,zookeeper]'
	touch $@

dev: $(VENV)/.installed-dev
$(VENV)/.installed-dev: pyproject.toml
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[embedded,zookeeper,dev]'
	touch $(VENV)/.installed $@

up: install
	@exec $(BIN)/pgregent up

test: dev
	$(BIN)/pytest --ignore=tests/compose

test-compose: dev
	$(BIN)/pytest tests/compose

check: dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright

bench: dev
	$(BIN)/python -m bench
