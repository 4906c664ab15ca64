"""The environment of every job: record, log, lock, GPUs, version of the code, integrity of its inputs.

`job.py` is the context manager that every script uses; read it first. `code_version.py` (with `parsed_source.py`)
digests the code of a stage, `planned_version.py` compares it with the plan, `integrity.py` checks digests of inputs,
`gpus.py` assigns GPUs, `warm_start.py` forks jobs from a process that has imported torch, `rank.py` starts a rank of a
training, `slurm_orphans.py` finds jobs of a killed run in the queue of a cluster.
"""
