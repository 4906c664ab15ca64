"""What a run will take: time, GPU-hours, disk, and tokens and money of judges, estimated before the first job.

`estimate.py` makes the table and refuses a run over budget; read it first. `work.py` computes the work of a job,
`sizes.py` the sizes of models and data, `history.py` reads the times of earlier jobs, `judges.py` counts requests.
"""
