# `make demo` and `make test` do all the set-up they need: git, make and Python 3.11-3.13 suffice.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= demo-run

export OMP_NUM_THREADS ?= 2

.PHONY: demo test lint unit setup benchmark weights clean

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

unit: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not service and not benchmark"

benchmark: setup
	$(BIN)/python -m pytest -s -m benchmark tests/benchmarks

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
