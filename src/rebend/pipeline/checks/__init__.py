"""Checks before the first job: each mistake is one sentence with the key, the value and what is allowed.

`study.py` checks references between blocks and returns the plan; read it first. `before_run.py` checks the machine,
accounts and models, `files.py` the columns of local data files, `published.py` names of printed numbers,
`old_results.py` finds folders of an earlier version, `workflow.py` turns errors into Snakemake's.
"""
