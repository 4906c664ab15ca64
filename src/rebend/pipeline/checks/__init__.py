"""Checks before the first job: each mistake is one message with the key, the value and the allowed values.

`study.py` checks references between blocks and returns the plan; read it first. `before_run.py` checks the machine,
accounts and models, `files.py` the columns of local data files, `published.py` labels and names printed in
the papers, `old_results.py` finds folders of an earlier version, `workflow.py` turns errors into Snakemake's.
"""
