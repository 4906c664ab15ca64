"""One file per method: its equation, the tokens that it reads, its terms and its objective.

`terms.py` and `likelihood.py` hold what several methods share. Read `sft.py` first: it is the shortest objective.
"""
