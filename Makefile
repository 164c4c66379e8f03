# Three commands: make setup, make run, make test. What they do is in bootstrap.sh; a second run skips what is done.
#   make run PORT=9000                  another port
#   make setup PYTHON=/path/to/python   another Python (3.11, 3.12 or 3.13)
#   make test BROWSER=no                without the browser journey
#   make test TESTS=tests/test_spec.py  some tests only
#   make exhaustive                     what `make test` asks a covering set of: every combination

export ADDRESS PORT PYTHON BROWSER
unexport PYTHONDONTWRITEBYTECODE # the tests start hundreds of interpreters: each would compile the house anew

BIN := .venv/bin
TESTS ?= tests
# One worker more than CI has processors: who waits for a browser leaves one free.
WORKERS ?= 3
# All tests: whole files, long ones first (tests/conftest.py): what a file shares is made once. Some tests: shared out.
DIST := $(if $(filter tests,$(TESTS)),loadfile --no-loadscope-reorder,worksteal)
ifeq ($(BROWSER),no)
LEAVE_OUT := -m "not exhaustive and not browser"
else
LEAVE_OUT := -m "not exhaustive"
endif

.PHONY: setup run test exhaustive lint format clean help
.DEFAULT_GOAL := help

help:
	@sed -n '/^$$/q; s/^#  */  /p' Makefile

setup:
	@./bootstrap.sh setup
	@echo "== set up; 'make run' starts ScanLoom"

run:
	@./bootstrap.sh setup
	@./bootstrap.sh serve

lint:
	@./bootstrap.sh tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# As lint, but mypy reads beside the tests, in what they leave of the processors; what it found comes last, and counts.
test:
	@./bootstrap.sh tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo "$(BIN)/mypy beside $(BIN)/pytest -n $(WORKERS) --dist $(DIST) $(LEAVE_OUT) $(TESTS)"; \
	nice -n 10 $(BIN)/mypy >.venv/mypy.log 2>&1 & types=$$!; \
	$(BIN)/pytest -n $(WORKERS) --dist $(DIST) $(LEAVE_OUT) $(TESTS); tested=$$?; \
	if [ $$tested = 1 ]; then $(BIN)/python -m tests.again; tested=$$?; fi; \
	wait $$types; typed=$$?; \
	echo "== mypy"; cat .venv/mypy.log; \
	[ $$tested = 0 ] && [ $$typed = 0 ]

# The rest of what is asked of a whole product of combinations, such as each starter in each format.
exhaustive:
	@./bootstrap.sh tests
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m exhaustive $(TESTS)

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv components/node_modules components/build components/src/scanloom_components/assets \
		pages/static .pytest_cache .ruff_cache .mypy_cache
