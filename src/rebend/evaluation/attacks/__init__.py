"""Attacks: one file per attack, each with a function `attack` that decodes responses to harmful prompts under it.

Read `attack.py` first (it runs the chosen attack), then `attempts.py` (shared by all attacks). `soft_tokens.py` is the
optimiser of the attack `embedding`; `frozen_weights.py` turns the gradients of weights off.
"""
