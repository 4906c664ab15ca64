"""Load the fixed direction that static representation editing adds to hidden states."""

from __future__ import annotations

from pathlib import Path

import torch

from rebend.errors import ModelError
from rebend.io.files import read_json


def load_direction(path: str | Path, fingerprint: str, hidden_size: int) -> torch.Tensor:
    """Return a direction [D]. Raises `ModelError` if it was fitted to another model or hidden size."""
    content = read_json(path)
    numbers = content["direction"]
    if content["fingerprint"] != fingerprint or len(numbers) != hidden_size:
        raise ModelError(
            f"{path}: the direction has {len(numbers)} numbers and was fitted to model {content['fingerprint']}; "
            f"this is model {fingerprint} with hidden size {hidden_size}"
        )
    return torch.tensor(numbers)
