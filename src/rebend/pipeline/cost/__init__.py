"""Estimate of a run before its first job: time, GPU-hours, disk, and tokens and cost of judges.

`estimate.py` makes the table and refuses a run over budget; read it first. `work.py` computes the work of a job,
`sizes.py` the sizes of models and data, `history.py` reads the records of earlier jobs, `judges.py` counts requests.
"""
