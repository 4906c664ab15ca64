"""From a base model and an adapter to one checkpoint, checked against base and adapter.

`merge.py` writes the checkpoint; read it first. `lora_delta.py` computes the change of each weight, `weight_files.py`
reads and writes tensors one at a time, `equivalence.py` compares logits, `model_card.py` writes the card.
"""
