"""What responses are worth: attacks, judges, rewards, diversity, coherence, capability, and intervals of all of them.

`attacks/` answers harmful prompts under an attack; `judges/` decides about responses. One file per score:
`diversity.py`, `coherence.py`, `capability.py` (with `capability_questions.py`). `intervals.py` estimates means and
rates with their intervals, `agreement.py` compares judges. Read `intervals.py` first: all tables rest on it.
"""
