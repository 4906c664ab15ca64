"""Load the fixed direction that static representation editing adds to hidden states."""

from __future__ import annotations

from pathlib import Path

import torch

from rebend.errors import ModelError
from rebend.io.files import read_json


def load_direction(path: str | Path, fingerprint: str, hidden_size: int) -> torch.Tensor:
    """Load a direction `[D]` for the model with this fingerprint; another model's is a `ModelError`."""
    found = read_json(path)
    if found["fingerprint"] != fingerprint or len(found["direction"]) != hidden_size:
        raise ModelError(
            f"{path}: the direction was fitted to {len(found['direction'])} numbers of model {found['fingerprint']}; "
            f"this is {fingerprint} with {hidden_size}"
        )
    return torch.tensor(found["direction"])
