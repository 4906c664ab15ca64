"""Attacks: one file per attack, each with a function `attack` that answers harmful prompts under that attack.

Read `attack.py` first (the frame that runs the chosen attack), then `attempts.py` (what all attacks share).
`soft_tokens.py` holds the optimiser of the attack `embedding`, `frozen_weights.py` turns weight gradients off.
"""
