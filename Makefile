# make demo · make test · make check · make bench: each target first installs its packages into .venv.
PYTHON ?= python3
STUDY ?= tiny
DATA ?= resources/data
CORES ?= $(shell nproc 2>/dev/null || echo 2)

# Signs in a folder's name with which Python's start scripts or Snakemake cannot work.
SIGNS := { } : ; " ` \ $$
REFUSED := $(strip $(foreach sign,$(SIGNS),$(findstring $(sign),$(value CURDIR))))
ifneq ($(REFUSED),)
$(error rebend: cannot run in the folder '$(value CURDIR)', because its name has $(REFUSED); move it to another folder)
endif

export STUDY DATA CONFIGFILE

BIN := .venv/bin
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)
# More blocks, from one or several files (CONFIGFILE="mine.yaml caps.yaml"). The shell reads the variable from the
# environment, so that quotes in it do no harm.
BLOCKS := $${CONFIGFILE:+--configfile config/config.yaml $$CONFIGFILE}

# Each stamp file marks that an extra of pyproject.toml is installed; each extra contains the one before it.
DEMO := .venv/.demo
STUDIES := .venv/.studies
DEV := .venv/.dev
READY := $(if $(filter tiny tiny_seeds,$(STUDY)),$(DEMO),$(STUDIES))

.PHONY: demo fetch plan noise test test-slurm resume check bench format clean help

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: $(READY) ## build STUDY (tiny: built-in data, no network, no GPU) and print the path of the report
	@echo "rebend: building study '$$STUDY' on $(CORES) cores (finished results are not built again)"
	@$(SNAKEMAKE) --quiet host $(BLOCKS) --config "study=$$STUDY" "data=$$DATA"
	@echo "rebend: done. Open results/report.html; tables are in results/tables, figures in results/figures."

fetch: $(READY) ## download the models and data of STUDY (demo does so too); afterwards it is built without network
	@$(SNAKEMAKE) --quiet host $(BLOCKS) --config "study=$$STUDY" "data=$$DATA" -- fetch

plan: $(READY) ## print an estimate for STUDY (jobs, GPU-hours, disk, judge tokens, cost); start no job
	@$(BIN)/snakemake --cores 1 --nolock --quiet host progress rules $(BLOCKS) --config "study=$$STUDY" "data=$$DATA" -- plan

noise: $(READY) ## decode and score a finished STUDY again, and print how much the numbers differ
	@$(BIN)/python bench/noise.py --study "$$STUDY" --cores $(CORES) --data "$$DATA"

test: $(DEV) ## run all tests that this machine can run
	@echo "rebend: running the tests (tests that need a GPU or the real data sets are skipped without them)"
	@$(BIN)/python -m pytest -n $(CORES) --dist loadfile

test-slurm: $(DEV) ## start a Slurm on this machine and test the workflow on it, with failures
	@echo "rebend: running the tests on a real Slurm (installed if possible) and the chaos test; about half an hour"
	@REBEND_INSTALL_SLURM=accounting $(BIN)/python -m pytest tests/slurm -m "slurm or chaos"

resume: $(STUDIES) ## after a kill of Snakemake: cancel its jobs on the cluster, and unlock this folder
	@$(BIN)/python -m rebend.pipeline.jobs.slurm_orphans
	@$(SNAKEMAKE) --unlock --quiet all
	@echo "rebend: now start the run again"

check: $(DEV) ## check style, formatting, types and the workflow; change nothing
	@echo "rebend: ruff check (style)"
	@$(BIN)/ruff check .
	@echo "rebend: ruff format (formatting of Python)"
	@$(BIN)/ruff format --check .
	@echo "rebend: snakefmt (formatting of the rules)"
	@$(BIN)/snakefmt --check Snakefile workflow
	@echo "rebend: mypy (types)"
	@$(BIN)/mypy
	@echo "rebend: snakemake --lint (the workflow)"
	@$(BIN)/snakemake --lint
	@echo "rebend: all checks passed"

bench: $(DEV) ## measure the workflow, and write the numbers to bench/latest.json
	@echo "rebend: measuring (build the demo first to include it)"
	@$(BIN)/python bench/run.py

format: $(DEV) ## format all files
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/snakefmt Snakefile workflow

clean: ## delete results and environment
	rm -rf results .snakemake .venv

# torch is installed first and pinned exactly, so that no other package chooses another build of it.
$(DEMO): pyproject.toml constraints.txt
	@echo "rebend: installing the library into .venv (once)"
	@test -d .venv || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --upgrade pip
	@$(BIN)/pip install --quiet "$$(grep -x 'torch==.*' constraints.txt)"
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(STUDIES): $(DEMO)
	@echo "rebend: installing the packages of larger studies: benchmarks, judges, Slurm, DeepSpeed (once)"
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[studies]'
	@touch $@

$(DEV): $(DEMO)
	@echo "rebend: installing the tools for tests and checks (once)"
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STUDIES) $@
