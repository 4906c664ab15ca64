# make demo · make test · make check · make bench: each sets itself up in .venv, then says what to open.
PYTHON ?= python3
STUDY ?= tiny
DATA ?= resources/data
CORES ?= $(shell nproc 2>/dev/null || echo 2)

BIN := .venv/bin
READY := .venv/.ready
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)

.PHONY: demo fetch plan noise test test-slurm resume check bench format clean help

help: ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: $(READY) ## build STUDY (tiny: embedded, no network, no GPU) and say where the report lies
	@echo "rebend: building study '$(STUDY)' on $(CORES) cores (what is finished is not done again)"
	@$(SNAKEMAKE) --quiet host --config study=$(STUDY) data=$(DATA)
	@echo "rebend: done. Open results/report.html; tables are in results/tables, figures in results/figures."

fetch: $(READY) ## bring in what STUDY needs from the hub and from addresses; nothing else uses the network
	@$(SNAKEMAKE) --quiet host --config study=$(STUDY) data=$(DATA) -- fetch

plan: $(READY) ## tell what STUDY would take: jobs, GPU-hours, disk, judges' tokens and cost; nothing is started
	@$(BIN)/snakemake --cores 1 --nolock --quiet host progress rules --config study=$(STUDY) data=$(DATA) -- plan

noise: $(READY) ## decode and score STUDY, which must be built, once more: what differs, means nothing
	@$(BIN)/python bench/noise.py --study $(STUDY) --cores $(CORES) --data $(DATA)

test: $(READY) ## run every test that this machine can run
	@echo "rebend: running the tests (those that need a GPU or the real data sets skip without them)"
	@$(BIN)/python -m pytest -n $(CORES) --dist loadfile

test-slurm: $(READY) ## bring up a Slurm on this machine, run the workflow on it, disturb it, take it down
	@echo "rebend: running the tests on a real Slurm (installed if that is possible), and the chaos test; about half an hour"
	@REBEND_INSTALL_SLURM=accounting $(BIN)/python -m pytest tests/slurm -m "slurm or chaos"

resume: $(READY) ## after Snakemake was killed: cancel what it left in the queue of a cluster, unlock this folder
	@$(BIN)/python -m rebend.pipeline.jobs.slurm_orphans
	@$(SNAKEMAKE) --unlock --quiet all
	@echo "rebend: now start the run again as before"

check: $(READY) ## lint, format, types, workflow lint
	@echo "rebend: checking style, types and the workflow"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/snakefmt --check Snakefile workflow
	@$(BIN)/mypy
	@$(BIN)/snakemake --lint

bench: $(READY) ## measure the workflow itself; figures go to bench/latest.json
	@echo "rebend: measuring (build the demo first to see its shares)"
	@$(BIN)/python bench/run.py

format: $(READY) ## format everything
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/snakefmt Snakefile workflow

clean: ## forget results and environment
	rm -rf results .snakemake .venv

# torch is installed first and pinned exactly, so that no other package picks a build of its own.
$(READY): pyproject.toml constraints.txt
	@echo "rebend: installing into .venv (once)"
	@test -d .venv || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --upgrade pip
	@$(BIN)/pip install --quiet "$$(grep -x 'torch==.*' constraints.txt)"
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)
