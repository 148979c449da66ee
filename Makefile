# Everything runs from the virtual environment .venv that this file makes: no activated environment is needed, and any
# working directory will do (`make -C path/to/rios demo`).

PYTHON ?= python3
PY := .venv/bin/python
STAMP := .venv/.installed
PYTEST := $(PY) -m pytest
# Tests wait for processes half of their time: two files at once keep two cores busy.
AT_ONCE ?= 2

# What the caller's shell may carry must not reach into the environment.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE PIP_TARGET PIP_PREFIX PIP_CONSTRAINT PIP_REQUIRE_VIRTUALENV VIRTUAL_ENV
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Notebooks write connection files, histories and settings: here, because HOME may be unset, read-only, or someone's own.
export IPYTHONDIR := $(CURDIR)/.make/ipython
export JUPYTER_CONFIG_DIR := $(CURDIR)/.make/jupyter/config
export JUPYTER_DATA_DIR := $(CURDIR)/.make/jupyter/data
export JUPYTER_RUNTIME_DIR := $(CURDIR)/.make/jupyter/runtime

# An environment that was moved here, or whose Python went away, is made again.
ifneq ($(shell test -x $(PY) && cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

.PHONY: help setup lab wheel demo test test-long bench lint audit docs system clean

help:
	@echo 'make demo       set up, generate with the demo model, and write reports/out/quickstart.html'
	@echo 'make test       set up and run all tests but the long campaigns'
	@echo 'make test-long  run the long campaigns; a second call resumes where the first ended'
	@echo 'make lab        build the panels of JupyterLab into .venv (needs Node); nothing to do while they are current'
	@echo 'make wheel      leave in dist/ a wheel that needs neither Node nor a compiler, and that of rios-client'
	@echo 'make bench      measure this machine and write reports/out/performance.html'
	@echo 'make lint       ruff and strict mypy'
	@echo 'make audit      static analysis, secrets, licences and advisories; SECURITY.md answers each finding'
	@echo 'make docs       write docs/architectures.md from what the tests find out'
	@echo 'make docs-site  build the documentation site, build/site, which opens from a disk'
	@echo 'make system     install the packages of system-packages.txt (root), or name the missing ones'
	@echo 'make clean      remove all that make has made, .venv too'

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo 'rios needs Python 3.11 or newer, and "$(PYTHON)" is not that. Name one: make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; \
	  exit 1; }
	@made_at=$$(cat $(STAMP) 2>/dev/null || echo "$(CURDIR)"); rm -f $(STAMP); \
	if [ "$$made_at" != "$(CURDIR)" ] || ! $(PY) -m pip --version >/dev/null 2>&1; then \
	  echo 'making .venv ...'; \
	  [ ! -L .venv ] || rm .venv; \
	  $(PYTHON) -m venv --clear .venv || { \
	    echo 'no virtual environment could be made: on Debian and Ubuntu, install the package python3-venv' >&2; exit 1; }; \
	fi
	@echo 'installing the pinned packages into .venv (minutes, the first time) ...'
	@mkdir -p .make
	@{ $(PY) -m pip install -qq --no-input --log .make/pip.log --upgrade -c constraints.txt pip && \
	  $(PY) -m pip install -qq --no-input --log .make/pip.log -c constraints.txt --build-constraint constraints.txt \
	    -e '.[dev]'; } || { echo 'the installation failed; .make/pip.log has the details' >&2; exit 1; }
	@echo "$(CURDIR)" > $@

demo: setup
	.venv/bin/rios generate --model demo "It was a fine morning," --max-new-tokens 40 --temperature 0.7 --seed 1
	$(PY) -m rios.reporting.run quickstart

# The panels' front end. What is built is not in the repository, and whoever installs a wheel builds nothing.
PANELS := extension/labextension/package.json
PANEL_SOURCES := $(wildcard extension/src/* extension/style/* extension/schema/* extension/*.json extension/*.mjs)

lab: setup $(PANELS)
	@mkdir -p .venv/share/jupyter/labextensions
	@ln -sfn "$(CURDIR)/extension/labextension" .venv/share/jupyter/labextensions/rios-lab

$(PANELS): $(PANEL_SOURCES)
	@command -v npm >/dev/null || { echo 'the panels need npm and node to be built: make system' >&2; exit 1; }
	@echo 'building the panels of JupyterLab ...'
	@mkdir -p .make
	@{ [ extension/node_modules/.package-lock.json -nt extension/package-lock.json ] || \
	  (cd extension && npm ci --no-audit --no-fund --ignore-scripts); } > .make/panels.log 2>&1 && \
	(cd extension && npm run build) >> .make/panels.log 2>&1 || \
	  { tail -30 .make/panels.log >&2; echo 'the panels could not be built; .make/panels.log has the details' >&2; exit 1; }
	@touch $@

wheel: lab
	rm -f dist/rios-* dist/rios_client-*
	PIP_CONSTRAINT=constraints.txt $(PY) -m build --outdir dist > .make/wheel.log 2>&1 || { tail -30 .make/wheel.log >&2; exit 1; }
	PIP_CONSTRAINT=constraints.txt $(PY) -m build --wheel --outdir dist client >> .make/wheel.log 2>&1 || { tail -30 .make/wheel.log >&2; exit 1; }
	@ls dist/rios-*.whl dist/rios_client-*.whl

test: setup system
	@$(MAKE) --no-print-directory lab || echo 'the panels are not built; the tests that need them are not run, or fail' >&2
	$(PYTEST) -n $(AT_ONCE) --dist loadfile --no-loadscope-reorder

test-long: setup system
	@$(MAKE) --no-print-directory lab || echo 'the panels are not built; the tests that need them are not run, or fail' >&2
	$(PYTEST) -m long

bench: setup
	$(PY) -m rios.reporting.run performance

lint: setup
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PYTEST) -q -m long tests/contracts/test_slither.py

audit: setup lab
	$(PY) -m tests.audit
	$(PYTEST) -q -m long tests/contracts/test_slither.py

docs: setup
	@mkdir -p docs .make
	$(PY) -m tests.architectures > .make/architectures.md && mv .make/architectures.md docs/architectures.md

docs-site: setup
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet

system:
	@missing=$$(sed -n 's/^\([a-z][^ ]*\) *# \([a-z-]*\):.*/\1 \2/p' system-packages.txt | while read -r package command; do \
	  PATH="$$PATH:/usr/sbin:/sbin" command -v "$$command" >/dev/null || printf ' %s' "$$package"; done); \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing && exit 0; \
	fi; \
	echo "system packages missing:$$missing (sudo make system); the tests that need them are not run and are named at the end" >&2

clean:
	rm -rf .venv .make .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist reports/out *.egg-info contracts/node_modules contracts/out contracts/cache extension/node_modules extension/lib extension/labextension rios/widgets/static rios/gateway/static
	find rios tests -name __pycache__ -prune -exec rm -rf {} +
