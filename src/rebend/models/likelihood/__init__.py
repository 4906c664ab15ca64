"""How likely a model finds given answers: the tokens of an answer behind its prompt, and their log-probabilities.

`answers.py` finds the tokens as the chat template writes them, `nll.py` computes their negative log-likelihoods.
"""
