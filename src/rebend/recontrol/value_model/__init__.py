"""From hidden states and rewards to a value network (arXiv:2406.05954, section 4) or a fixed direction.

`extraction.py` samples responses and writes a hidden state per token, `activation_store.py` is their format on disk,
`streamed_activations.py` computes states that were not stored. `reward_labels.py` scores the responses and `labels.py`
looks the rewards up. `examples.py`, `loss.py` and `train.py` train `network.py`, and `audit.py` tests it on held-out
responses. `released.py` converts a network of RE-Control's released code. `direction_fit.py` fits a fixed direction and
`direction.py` loads it. Read `train.py` first.
"""
