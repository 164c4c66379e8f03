# Three commands: make setup, make run, make test. What they do is in bootstrap.sh; a second run skips what is done.
#   make run PORT=9000                  another port
#   make setup PYTHON=/path/to/python   another Python (3.11, 3.12 or 3.13)
#   make test BROWSER=no                without the browser journey
#   make test TESTS=tests/test_spec.py  some tests only

export ADDRESS PORT PYTHON BROWSER

BIN := .venv/bin
TESTS ?= tests
WORKERS ?= 2
ifeq ($(BROWSER),no)
LEAVE_OUT := -m "not browser"
endif

.PHONY: setup run test lint format clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#  */  /p; s/^# *\(Three.*\)/\1/p' Makefile

setup:
	@./bootstrap.sh setup
	@echo "== set up; 'make run' starts ScanLoom"

run:
	@./bootstrap.sh setup
	@./bootstrap.sh serve

lint:
	@./bootstrap.sh setup
	@./bootstrap.sh dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n $(WORKERS) --dist worksteal $(LEAVE_OUT) $(TESTS)

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv components/node_modules components/build components/src/scanloom_components/assets \
		pages/static .pytest_cache .ruff_cache .mypy_cache
