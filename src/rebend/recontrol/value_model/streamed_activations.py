"""States that were never written: computed again from the kept token ids, a row group at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rebend.errors import ModelError
from rebend.models.hidden_states import response_states
from rebend.models.loading import Policy, load_policy
from rebend.recontrol.value_model.activation_store import Activations


def open_activations(directory: str | Path, model: str | Path, dtype: str) -> Activations:
    """Open a folder; where it has no states, with the checkpoint folder `model` that computes them, run in `dtype`."""
    stored = Activations(directory)
    return (
        stored if stored.manifest["states"] == "stored" else StreamedActivations(directory, load_policy(model, dtype))
    )


class StreamedActivations(Activations):
    """A folder without states, and the model that they come from; read like one that has them.

    One pass over prompt and response per row group and epoch takes the place of reading from disk. The states are
    those that decoding saw, but for rounding, in the type that they would be stored in.
    Raises `ModelError` if the responses are another model's.
    """

    def __init__(self, directory: str | Path, policy: Policy) -> None:
        super().__init__(directory)
        if policy.fingerprint != self.fingerprint:
            raise ModelError(
                f"{directory}: the responses are of model {self.fingerprint}, this is {policy.fingerprint}; "
                "states of another model would be something else"
            )
        self.policy = policy
        self.asked_layer = int(self.layer) if self.layer.isdigit() else self.layer

    def states(self, group: int) -> torch.Tensor:
        """Return the states [rows, D] of a row group, computed now."""
        table = self.table(group, ["position", "token_id", "prompt_ids"])
        starts = np.flatnonzero(table["position"].to_numpy() == 0)
        prompts = table["prompt_ids"].take(starts).to_pylist()
        tokens = np.split(table["token_id"].to_numpy(), starts[1:])
        pairs = list(zip(prompts, (part.tolist() for part in tokens), strict=True))
        return torch.cat(response_states(self.policy, pairs, self.asked_layer)).to(self.dtype)
