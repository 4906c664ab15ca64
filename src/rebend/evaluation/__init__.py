"""Quality and safety of responses: attacks, judges, rewards, diversity, perplexity, capability, and intervals.

`attacks/` decodes responses to harmful prompts under an attack; `judges/` returns verdicts on responses. One file per
score: `diversity.py`, `repetition.py`, `coherence.py`, `perplexity.py`, `chat_perplexity.py`, `capability.py` (with
`capability_questions.py`). `intervals.py` estimates means and rates with their intervals, `agreement.py` compares
judges. Read `intervals.py` first: all tables use it.
"""
