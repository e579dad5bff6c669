# make run | test | check | bench: the only commands to know. `make web` builds the web page anew after a change in web/.

PYTHON ?= python3
MODEL ?= qwen2.5-coder:0.5b
PROMPT ?= Write a Python function that tells whether a number is prime, then explain it in two sentences.
export PROMPT

VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --quiet --disable-pip-version-check
SOURCES := pyproject.toml CMakeLists.txt $(shell find src csrc cmake -type f -not -name '*.pyc')
CPP := $(shell find csrc -name '*.h' -o -name '*.cpp')

# Lists of requirements (runtime, build, or an extra's name), read from pyproject.toml so that installing them builds nothing.
requirements = $(VENV)/bin/python -c 'import sys, tomllib; \
	settings = tomllib.load(open("pyproject.toml", "rb")); \
	lists = {"runtime": settings["project"]["dependencies"], "build": settings["build-system"]["requires"]}; \
	lists.update(settings["project"]["optional-dependencies"]); \
	print(*(line for name in sys.argv[1:] for line in lists[name]), sep="\n")' $(1)

.PHONY: run test check bench web test-web
.DELETE_ON_ERROR:

run: $(VENV)/installed
	@[ -t 0 ] || exec < /dev/null; $(VENV)/bin/abaci run "$(MODEL)" "$$PROMPT"

test: $(VENV)/test
	@$(VENV)/bin/abaci pull smollm2:135m
	@$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/check
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	PYTHONPATH=src $(VENV)/bin/lint-imports
	$(VENV)/bin/clang-format --dry-run -Werror $(CPP)

bench: $(VENV)/bench
	@$(VENV)/bin/abaci bench "$(MODEL)" --against llama.cpp

web:
	@cd web && npm ci && npm test && npm run build

test-web: $(VENV)/test
	@$(VENV)/bin/python -m pytest tests/server/test_web.py tests/server/test_web_pages.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(SOURCES) | $(VENV)/bin/python
	@echo "installing abaci into $(VENV); the first time its extension is compiled, which takes a minute or two"
	@$(call requirements,build) | $(PIP) -r /dev/stdin
	@$(PIP) --no-build-isolation .  # build tools that stay in place let the next build compile only what changed
	@touch $@

$(VENV)/test: $(VENV)/installed pyproject.toml
	@echo "installing what the tests need"
	@$(call requirements,test) | $(PIP) -r /dev/stdin
	@touch $@

$(VENV)/check: pyproject.toml | $(VENV)/bin/python
	@echo "installing what the checks need"
	@$(call requirements,runtime check) | $(PIP) -r /dev/stdin
	@touch $@

$(VENV)/bench: $(VENV)/installed pyproject.toml
	@echo "installing what the benchmark measures against; compiling llama.cpp for this machine takes several minutes"
	@$(call requirements,bench) | CMAKE_ARGS="-DGGML_NATIVE=ON" $(PIP) -r /dev/stdin
	@touch $@
