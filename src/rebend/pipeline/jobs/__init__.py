"""What surrounds every job: record, log, lock, GPUs, version of the code, integrity of its inputs.

`job.py` is the block that every script works in; read it first. `code_version.py` (with `parsed_source.py`) digests the
code that a stage reaches, `planned_version.py` compares it with the plan, `integrity.py` checks digests of inputs,
`gpus.py` lends GPUs, `warm_start.py` forks jobs from a process that has imported torch, `rank.py` starts a rank of a
training, `slurm_orphans.py` finds jobs that a killed run left in a queue.
"""
