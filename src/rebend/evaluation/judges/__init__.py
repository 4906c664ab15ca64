"""Judges: verdicts on responses by a rule, by a model on this machine, or by a chat model at an address.

`safety/` contains the judges of responses to harmful and benign prompts, `win_rate/` the judges that compare responses
with preferred answers; read `judge.py` in each first. The other files are for judges at an OpenAI-compatible address:
`client.py` sends requests, `batch.py` uses the batch interface, `replies.py` parses replies, `reply_store.py` stores
them, `costs.py` counts and limits costs. `block.py` builds the settings of a judge inside a job.
"""
