"""The study as a graph of jobs: the only room that knows Snakemake and `results/`. Imports no torch while parsing.

`graph/` holds the paths, cells and plan of a study, `stages/` the inputs and settings of each rule, `checks/` the
checks before the first job, `cost/` the estimate of a run, `jobs/` the environment of every job. `start.py` starts a
run, `manual.py` writes the manual of keys. Read `graph/plan.py` first.
"""
