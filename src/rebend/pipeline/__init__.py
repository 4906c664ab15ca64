"""The study as a graph of jobs: the only room that knows Snakemake and `results/`. Imports no torch while parsing.

`graph/` plans: paths, cells and the plan of a study. `stages/` holds what each rule asks for, `checks/` what is refused
before the first job, `cost/` the estimate of a run, `jobs/` what surrounds every job. `manual.py` writes the manual of
keys, `start.py` starts a run. Read `graph/plan.py` first.
"""
