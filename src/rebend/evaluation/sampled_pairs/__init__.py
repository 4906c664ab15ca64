"""Pairs of a safe and an unsafe answer to harmful prompts, sampled from a model and judged: data to train on.

Read `pairs.py` first. `prompts.py` chooses the prompts, `sampling.py` samples and judges answers, `refusals.py` reads
refusals.
"""
