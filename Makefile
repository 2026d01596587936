# `make` shows what can be made. Everything lives in .venv; nothing outside this directory is touched
# but what a node itself keeps (see `make run`).

SHELL := /bin/sh
VENV := .venv
# The first Python that is new enough; PYTHON=… chooses another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo "$$python"; break; }; done)
FOLDER ?= $(HOME)/Dizzy
N ?= 1000
MINUTES ?= 60

DIZZYD := $(CURDIR)/$(VENV)/bin/dizzyd
PIP_INSTALL := $(VENV)/bin/python -m pip --disable-pip-version-check install
SOURCES := daemon peers store tests
# Many tests wait for processes: two workers on two cores, each with what is left of the other's.
IN_PARALLEL := --numprocesses=2 --dist=worksteal

# Tests, linters and benchmarks see a home of their own, which ends with them.
define in_own_home
home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT INT TERM \
&& export HOME="$$home" XDG_CONFIG_HOME="$$home/config" XDG_DATA_HOME="$$home/data" \
XDG_CACHE_HOME="$$home/cache" XDG_STATE_HOME="$$home/state" XDG_RUNTIME_DIR="$$home/run" \
DIZZYD_HOME="$$home/dizzyd" && mkdir -m 700 "$$home/run"
endef

.PHONY: help run test check lint types tests format sim crash powercut sweep mutants soak bench \
	bytecode lock clean

help:
	@echo "make run      start a node in the foreground and share $(FOLDER) (FOLDER=, DIZZYD_HOME=)"
	@echo "make test     everything that must hold: ruff, mypy, tests"
	@echo "make lint     ruff; make types: mypy; make tests: pytest alone (ARGS=…)"
	@echo "make sim      N=$(N) random histories of three nodes in the simulator"
	@echo "make crash    kill nodes at random moments, N=100 times (SEED=)"
	@echo "make powercut cut the power under an ext4 image, N=150 times (SEED=; root)"
	@echo "make sweep    fail every system call of an import, an apply, an exchange (N= of each; cc)"
	@echo "make mutants  break 56 safety rules, one at a time: tests must notice each (WORD=)"
	@echo "make soak     three nodes at work for MINUTES=$(MINUTES): what grows is told"
	@echo "make bench    measure the speed"
	@echo "make format   set the code in its form"
	@echo "make lock     renew requirements*.txt from pyproject.toml"
	@echo "make clean    remove .venv and all caches"

run: $(VENV)/.installed
	@"$(DIZZYD)" status >/dev/null 2>&1; code=$$?; \
	if [ $$code -eq 0 ] || [ $$code -eq 4 ]; then \
		echo "dizzyd is already running:"; "$(DIZZYD)" status || true; \
	else \
		exec "$(DIZZYD)" run --first-folder "$(FOLDER)"; \
	fi

test: bytecode
	@$(in_own_home) && export PATH="$(CURDIR)/$(VENV)/bin:$$PATH" \
	&& ruff check . && mypy && python -m pytest $(IN_PARALLEL) $(ARGS)
	@[ "$$(id -u)" = 0 ] || echo "not root: the tests marked root were skipped (listed above);" \
		"they need another uid, mounts or network namespaces"

check: test

lint: $(VENV)/.installed-dev
	@$(VENV)/bin/ruff check .

types: $(VENV)/.installed-dev
	@$(VENV)/bin/mypy

tests: bytecode
	@$(in_own_home) && "$(CURDIR)/$(VENV)/bin/python" -m pytest $(ARGS)

format: $(VENV)/.installed-dev
	@$(VENV)/bin/ruff check --fix-only --quiet .; $(VENV)/bin/ruff format $(SOURCES)

sim: bytecode
	@$(in_own_home) && "$(CURDIR)/$(VENV)/bin/python" -m tests.sim $(N)

# The long forms of what tests/crash does in short in `make test`.
crash: N = 100
powercut: N = 150
sweep: N = 0

crash: bytecode
	@$(in_own_home) && "$(CURDIR)/$(VENV)/bin/python" -m tests.crash.kills $(N) $(SEED:%=--seed %)

powercut: bytecode
	@$(in_own_home) && "$(CURDIR)/$(VENV)/bin/python" -m tests.crash.powercut $(N) $(SEED:%=--seed %)

sweep: bytecode
	@$(in_own_home) && "$(CURDIR)/$(VENV)/bin/python" -m tests.crash.sweep $(N) $(SEED:%=--seed %)

mutants: bytecode
	@$(in_own_home) && "$(CURDIR)/$(VENV)/bin/python" -m tests.mutants $(WORD)

soak: bytecode
	@$(in_own_home) && "$(CURDIR)/$(VENV)/bin/python" -m tests.crash.soak $(MINUTES) $(SEED:%=--seed %)

bench: bytecode
	@$(in_own_home) && "$(CURDIR)/$(VENV)/bin/python" -m tests.bench $(ARGS)

# What pip says is only of interest where it fails; it is kept in .venv/pip.log.
$(VENV)/.installed: requirements.txt pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "dizzyd needs Python 3.11 or newer, and there is none here" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	|| { echo "dizzyd needs Python's venv (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 \
	|| $(PYTHON) -m venv --clear $(VENV) \
	|| { echo "the environment $(CURDIR)/$(VENV) could not be made" >&2; exit 1; }
	@echo "installing into $(VENV) (once) …"
	@{ $(PIP_INSTALL) --require-hashes -r requirements.txt \
	&& $(PIP_INSTALL) --no-index --no-deps --no-build-isolation -e . \
	&& $(VENV)/bin/python -m compileall -q store peers daemon ; } >$(VENV)/pip.log 2>&1 \
	|| { echo "packages could not be installed: is a package index reachable? See $(VENV)/pip.log" >&2; exit 1; }
	@touch $@

# Every command and daemon that a test or a benchmark starts reads it, also where Python is told not
# to write any: to compile all that a daemon needs takes a second of each start.
bytecode: $(VENV)/.installed-dev
	@$(VENV)/bin/python -m compileall -q $(SOURCES)

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@echo "installing what the tests need (once) …"
	@$(PIP_INSTALL) --require-hashes -r requirements-dev.txt >$(VENV)/pip.log 2>&1 \
	|| { echo "packages could not be installed: is a package index reachable? See $(VENV)/pip.log" >&2; exit 1; }
	@touch $@

COMPILE := CUSTOM_COMPILE_COMMAND="make lock" $(VENV)/lock/bin/pip-compile --quiet --upgrade --generate-hashes \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --strip-extras --allow-unsafe \
	--build-deps-for=editable
lock: $(VENV)/.installed
	@$(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/python -m pip install --quiet pip-tools
	@$(COMPILE) -o requirements.txt pyproject.toml
	@$(COMPILE) --extra dev -c requirements.txt -o requirements-dev.txt pyproject.toml

clean:
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
