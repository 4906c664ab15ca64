"""Hidden states that are not stored: computed again from the stored token ids, one row group at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rebend.errors import ModelError
from rebend.models.hidden_states import response_states
from rebend.models.loading import Policy, load_policy
from rebend.recontrol.value_model.activation_store import Activations


def open_activations(directory: str | Path, model: str | Path, dtype: str) -> Activations:
    """Return an activations folder. If its states are not stored, the checkpoint `model` computes them in `dtype`."""
    activations = Activations(directory)
    if activations.manifest["states"] == "stored":
        return activations
    return StreamedActivations(directory, load_policy(model, dtype))


class StreamedActivations(Activations):
    """An activations folder without states, and the model that computes them.

    Each read of a row group is a forward pass over its prompts and responses. The states differ from those of decoding
    by rounding only, and have the type in which they would be stored. Raises `ModelError` if another model sampled the
    responses.
    """

    def __init__(self, directory: str | Path, policy: Policy) -> None:
        super().__init__(directory)
        if policy.fingerprint != self.fingerprint:
            raise ModelError(
                f"{directory}: the responses are of model {self.fingerprint}, this is {policy.fingerprint}; "
                "use the model that sampled them"
            )
        self.policy = policy
        self.model_layer = int(self.layer) if self.layer.isdigit() else self.layer

    def states(self, group: int) -> torch.Tensor:
        """Return the states [rows, D] of a row group, computed by the model."""
        table = self.table(group, ["position", "token_id", "prompt_ids"])
        starts = np.flatnonzero(table["position"].to_numpy() == 0)
        prompts = table["prompt_ids"].take(starts).to_pylist()
        responses = np.split(table["token_id"].to_numpy(), starts[1:])
        pairs = list(zip(prompts, (tokens.tolist() for tokens in responses), strict=True))
        return torch.cat(response_states(self.policy, pairs, self.model_layer)).to(self.dtype)
