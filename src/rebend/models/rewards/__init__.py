"""Reward models: one number for a prompt and its response.

`model.py` loads one and scores with it; read it first. `endpoint.py` is the client of a reward model behind an HTTP
address, `prompt.py` fills templates, `tiny.py` trains a small reward model.
"""
