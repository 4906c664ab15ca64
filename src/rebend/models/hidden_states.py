"""Hidden states of given tokens, from one pass over prompt and response instead of one step per token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rebend.errors import ConfigError
from rebend.models.batching import batches_by_length
from rebend.models.layers import FINAL, decoder_blocks
from rebend.models.loading import Policy


def block_of(policy: Policy, layer: int | str) -> Any:
    """Return the module whose output is the state of `layer`: a decoder block, or for `final` the whole body.

    Raises `ConfigError` for a block that the model does not have.
    """
    if layer == FINAL:
        return policy.model.base_model
    if isinstance(layer, int) and 0 <= layer < policy.n_layers:
        return decoder_blocks(policy.model)[layer]
    raise ConfigError(f"layer {layer!r}: the model has decoder blocks 0 to {policy.n_layers - 1}, and '{FINAL}'")


def response_states(
    policy: Policy, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], layer: int | str, batch_size: int = 32
) -> list[torch.Tensor]:
    """Return the states [T, D] on the CPU of each (prompt ids, response ids): row t is where token t was chosen.

    The same as while decoding, but for rounding: a position sees what stands before it, whatever comes after.
    Texts of like length share a pass; only the asked layer is kept, of the wanted positions.
    """
    found: dict[int, torch.Tensor] = {}
    for batch in batches_by_length([len(prompt) + len(response) for prompt, response in pairs], batch_size):
        found |= zip(batch, _pass(policy, [pairs[i] for i in batch], layer), strict=True)
    return [found[i] for i in range(len(pairs))]


@torch.inference_mode()
def _pass(policy: Policy, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], layer: int | str) -> list[torch.Tensor]:
    """One pass over a batch, padded on the right, where no real token sees it."""
    seen: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        seen.append(output if isinstance(output, torch.Tensor) else output[0])

    longest = max(len(prompt) + len(response) for prompt, response in pairs)
    texts = [[*prompt, *response] for prompt, response in pairs]
    pad = policy.tokenizer.pad_token_id
    ids = torch.tensor([[*text, *[pad] * (longest - len(text))] for text in texts], device=policy.device)
    lengths = torch.tensor([len(text) for text in texts], device=policy.device)
    mask = (torch.arange(longest, device=policy.device) < lengths[:, None]).long()
    handle = block_of(policy, layer).register_forward_hook(keep)
    try:
        policy.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        handle.remove()
    states = seen[-1]
    return [
        states[row, len(prompt) - 1 : len(prompt) - 1 + len(response)].cpu()
        for row, (prompt, response) in enumerate(pairs)
    ]
