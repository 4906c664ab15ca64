"""From hidden states and rewards to a value network (arXiv:2406.05954, section 4) or a fixed direction.

`extraction.py` samples responses and writes a hidden state per token, `gathering.py` joins its shards,
`activation_store.py` has their format on disk, and `streamed_activations.py` computes states that are not stored.
`reward_labels.py` scores the responses and `labels.py` looks the rewards up. `examples.py`, `loss.py` and `train.py`
train the network in `network.py`, and `audit.py` tests it on held-out responses. `released.py` converts a network of
RE-Control's released code. `direction_fit.py` fits a fixed direction, `direction.py` loads it. Read `train.py` first.
"""
