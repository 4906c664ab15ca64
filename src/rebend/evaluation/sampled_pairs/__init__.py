"""Judged answers of a model as data to train on: pairs of answers to harmful prompts, chats of harmless ones.

Read `pairs.py` first; `chats.py` has the harmless ones. `prompts.py` chooses the prompts, `sampling.py` samples and
judges answers, `refusals.py` reads refusals.
"""
