"""Reward models: one number for a prompt and its response.

`reward.py` has the interface and loads a reward model; read it first. `model.py` scores with a model on disk,
`endpoint.py` is the client of a reward model behind an HTTP address, `prompt.py` fills templates, `tiny.py` trains a
small reward model.
"""
