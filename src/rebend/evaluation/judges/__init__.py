"""Judges: they decide what a response is worth, by a rule, by a model on this machine, or by a chat model elsewhere.

`safety/` holds the judges of attacked prompts, `win_rate/` those that compare responses with preferred answers; read
`judge.py` in each first. The files here serve the judges at an OpenAI-compatible address: `client.py` sends requests,
`batch.py` uses the batch interface, `replies.py` reads replies, `reply_store.py` keeps them, `costs.py` limits and
counts what they cost. `block.py` builds the settings of a judge inside a job.
"""
