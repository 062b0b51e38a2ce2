# `make demo` and `make test` need only Python >= 3.11 and make: each does its own set-up, once.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
OUT ?= runs
PORT ?= 5000
# The environment of MONAI Label, which wants other releases than ours, and its studies.
LABEL ?= .label
LABEL_PORT ?= 8000
STUDIES ?= $(OUT)/studies
# One thread per test process: the processes share the cores.
JOBS ?= auto
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-label lint format docs bench mlflow label label-setup train-tiny results clean

help:
	@echo "make setup       install into $(VENV) (2-3 minutes, once); then $(BIN)/medpair is the command"
	@echo "make demo        generate two brain pairs and a contact sheet into $(OUT)/demo"
	@echo "make test        the fast tests; MEDPAIR_DATA=<folder of real scans> adds those on real scans"
	@echo "make test-all    also what needs optional tools; a missing tool is a listed skip"
	@echo "make lint        ruff, format check, mypy strict, import rules"
	@echo "make format      let ruff rewrite what it can"
	@echo "make docs        build the documentation into build/site, warnings are errors; open build/site/index.html"
	@echo "make bench       time steps, volumes, kernels and the pipeline, beside plain code (20 minutes); equal seeds give equal bytes"
	@echo "make mlflow      open MLflow on 127.0.0.1 for the training in RUN=<output_dir>, PORT=$(PORT)"
	@echo "make label       start MONAI Label on 127.0.0.1 with the bundles and the scans in STUDIES=<folder>, LABEL_PORT=$(LABEL_PORT)"
	@echo "make test-label  drive a real MONAI Label server (its environment: 4 minutes, 4 GB, once)"
	@echo "make results     train, choose, judge and compare at PRESET=small for MINUTES=60 a stage; RESULTS=--fast on a GPU"
	@echo "make train-tiny  train the shipped tiny weights again from MEDPAIR_DATA (hours, resumable)"

setup: $(VENV)/.setup

$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 found: install one, or make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.setup: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing into $(VENV), once (2-3 minutes)"
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.setup
	$(PIP_INSTALL) -e ".[test]"
	@touch $@

$(VENV)/.lint: $(VENV)/.setup
	$(PIP_INSTALL) -e ".[dev]"
	@touch $@

demo: $(VENV)/.setup
	$(BIN)/medpair generate medgen3d --n 2 --seed 0 --out $(OUT)/demo

test: $(VENV)/.test
	$(PYTEST) -m "not optional_tool and not label"

test-all: $(VENV)/.test
	$(PYTEST) -m "not label"

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.docs: $(VENV)/.setup
	$(PIP_INSTALL) -e ".[docs]"
	@touch $@

# the variable leaves out an advertisement
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --strict

# each benchmark also runs alone; on a machine with CUDA all of them take it
BENCH := $(BIN)/python benchmarks
bench: $(VENV)/.setup
	rm -rf $(OUT)/bench
	mkdir -p $(OUT)/bench
	$(BENCH)/r1_step.py --out $(OUT)/bench/r1_step.json
	$(BENCH)/r1_step.py --precision bf16 --out $(OUT)/bench/r1_step_bf16.json
	$(BENCH)/r2_mask.py --out $(OUT)/bench/r2_mask.json
	$(BENCH)/refiner.py --out $(OUT)/bench/r3_refiner.json
	$(BENCH)/r4_volume.py --out $(OUT)/bench/r4_volume.json
	$(BENCH)/training.py --data phantom:brain4:48x40x40:4 --copies 0 --variants "plain,as shipped" --updates 2 --out $(OUT)/bench/r6_training.json
	$(BENCH)/r7_depth.py --out $(OUT)/bench/r7_depth.json
	$(BENCH)/r8_kernels.py --out $(OUT)/bench/r8_kernels.json
	$(BENCH)/r9_cold_start.py --out $(OUT)/bench/r9_cold_start.json
	$(BENCH)/profile_stages.py --out $(OUT)/bench/profile.json
	$(BENCH)/speed_table.py $(OUT)/bench --out $(OUT)/bench/speed.md
	$(BENCH)/generate.py --out $(OUT)/bench/generate

$(VENV)/.mlflow: $(VENV)/.setup
	$(PIP_INSTALL) -e ".[mlflow]"
	@touch $@

mlflow: $(VENV)/.mlflow
	@test -f "$(RUN)/mlruns.db" || { echo "error: RUN='$(RUN)' holds no mlruns.db: set it to the output_dir of a training"; exit 1; }
	$(BIN)/mlflow ui --host 127.0.0.1 --port $(PORT) --backend-store-uri "sqlite:///$(abspath $(RUN))/mlruns.db"

label-setup: $(LABEL)/.setup

# in place of monailabel's own list of requirements, see the first lines of ours
$(LABEL)/.setup: docs/how-to/monai_label/requirements.txt | $(BIN)/pip
	@echo "installing MONAI Label into $(LABEL), once (4 minutes, 4 GB)"
	$(PYTHON) -m venv $(LABEL)
	$(LABEL)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	$(LABEL)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps monailabel==0.8.5
	@touch $@

label: $(VENV)/.setup $(LABEL)/.setup
	$(BIN)/python docs/how-to/monai_label/serve.py --label $(LABEL) --studies "$(STUDIES)" --app $(OUT)/monai_label --port $(LABEL_PORT)

test-label: $(VENV)/.test $(LABEL)/.setup
	MEDPAIR_LABEL=$(LABEL) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m label tests/label

train-tiny: $(VENV)/.setup
	@test -d "$(MEDPAIR_DATA)/brain_oasis" || { echo "error: MEDPAIR_DATA='$(MEDPAIR_DATA)' holds no folder brain_oasis: set it to the folder of real scans"; exit 1; }
	test -f $(OUT)/brain_oasis_tiny/dataset.json || $(BIN)/medpair prepare \
		--images "$(MEDPAIR_DATA)/brain_oasis" --labels "$(MEDPAIR_DATA)/brain_oasis" --schema brain4 \
		--persons docs/how-to/brain_oasis_persons.csv --spacing 4 --size 48x40x40 --crop nonzero \
		--out $(OUT)/brain_oasis_tiny
	$(BIN)/medpair train medgen3d --data $(OUT)/brain_oasis_tiny --preset tiny --out $(OUT)/train_tiny
	$(BIN)/python -m monai.bundle run \
		--config_file "['bundles/mcdpm_mask/configs/train.yaml','bundles/mcdpm_mask/presets/finish.yaml']" \
		--dataset_dir $(OUT)/brain_oasis_tiny --initial_weights $(OUT)/train_tiny/mcdpm_mask/model.pt \
		--output_dir $(OUT)/train_tiny/mcdpm_mask_finish
	$(BIN)/python -m monai.bundle run \
		--config_file "['bundles/mcdpm_mask/configs/train.yaml','bundles/mcdpm_mask/presets/finish.yaml']" \
		--dataset_dir $(OUT)/brain_oasis_tiny --initial_weights $(OUT)/train_tiny/mcdpm_mask_finish/model.pt \
		--output_dir $(OUT)/train_tiny/mcdpm_mask_again --minutes 80 --seed 2
	$(BIN)/medpair train gem3d --stages volume --data $(OUT)/brain_oasis_tiny --preset tiny --out $(OUT)/train_tiny
	$(BIN)/python -m monai.bundle run --config_file bundles/segmentation_eval/configs/train.yaml \
		--dataset_dir $(OUT)/brain_oasis_tiny --output_dir $(OUT)/train_tiny/segmentation_eval

# what docs/results.md says of a preset, from scans to results.json: hours on a GPU, days on a CPU; started again, it goes on
PRESET ?= small
MINUTES ?= 60
RESULTS ?=
SPACING_tiny := 4
SPACING_small := 2
SPACING_base := 1
SIZE_tiny := 48x40x40
SIZE_small := 96x80x80
SIZE_base := 192x160x160
SCANS = $(OUT)/brain_oasis_$(PRESET)
results: $(VENV)/.setup
	@test -n "$(SIZE_$(PRESET))" || { echo "error: PRESET='$(PRESET)', wanted tiny, small or base"; exit 1; }
	@test -d "$(MEDPAIR_DATA)/brain_oasis" || { echo "error: MEDPAIR_DATA='$(MEDPAIR_DATA)' holds no folder brain_oasis: set it to the folder of real scans"; exit 1; }
	test -f $(SCANS)/dataset.json || $(BIN)/medpair prepare \
		--images "$(MEDPAIR_DATA)/brain_oasis" --labels "$(MEDPAIR_DATA)/brain_oasis" --schema brain4 \
		--persons docs/how-to/brain_oasis_persons.csv --spacing $(SPACING_$(PRESET)) --size $(SIZE_$(PRESET)) --crop nonzero \
		--out $(SCANS)
	$(BENCH)/results.py --data $(SCANS) --preset $(PRESET) --minutes $(MINUTES) $(RESULTS) --out $(OUT)/results_$(PRESET)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
