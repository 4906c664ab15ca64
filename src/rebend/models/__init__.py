"""A model on disk or in memory: text in; hidden states, log-probabilities, embeddings or rewards out.

`loading.py` loads a language model as a `Policy`; read it first. `chat.py` applies the chat template. `layers.py` and
`hidden_states.py` name and read layers, `hooks.py` edits the state before the head, `log_probs.py` computes
distributions without all logits at once, `lora.py` holds adapters. `rewards/` has reward models, `sentence_encoder.py`
embeddings of texts, `tiny_model.py` a small model trained from random weights.
"""
