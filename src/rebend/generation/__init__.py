"""From prompts to responses, with one interface for methods that act while decoding; this room imports no method.

Read `intervention.py` first: it defines what a method may change (`Control`). `generate.py` decodes fixed batches, with
or without a control. `continuous_batching.py` decodes without a control and refills its batch as responses end. Both
choose tokens with `sampling.py` and end responses with `stopping.py`. `norm_limit.py` limits the edit of a state.
"""
