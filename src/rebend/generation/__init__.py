"""From prompts to responses, with one interface for methods that act while decoding; this room imports no method.

Read `intervention.py` first: it defines what a method may change (`Control`). `generate.py` decodes prompts in one of
two ways: `continuous_batching.py` refills its rows as responses end, and decodes rows of different lengths in groups
(`row_group.py`, `grouped_attention.py`); `fixed_batches.py` serves token searches and models with other caches. Both
choose tokens with `sampling.py` and end responses with `stopping.py`. `norm_limit.py` limits the edit of a state.
"""
