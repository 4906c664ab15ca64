"""Hidden states of given tokens, from one pass over prompt and response instead of one step per token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rebend.errors import ConfigError
from rebend.models.batching import batches_by_length
from rebend.models.hooks import on_blocks
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
    """Return the states [T, D] on the CPU of each (prompt ids, response ids): row t is the state that chose token t.

    Equal to the states while decoding, except for rounding.
    """
    texts = [[*prompt, *response] for prompt, response in pairs]
    spans = [range(len(prompt) - 1, len(prompt) - 1 + len(response)) for prompt, response in pairs]
    return text_states(policy, texts, spans, layer, batch_size)


def text_states(
    policy: Policy, texts: Sequence[Sequence[int]], spans: Sequence[range], layer: int | str, batch_size: int = 32
) -> list[torch.Tensor]:
    """Return the states [T, D] on the CPU at a span of positions of each text (token ids).

    A state depends only on its token and the tokens before it. Texts of similar length share a pass; the states of
    other layers and positions are not kept. Raises `ConfigError` for a layer that the model does not have.
    """
    states: dict[int, torch.Tensor] = {}
    for batch in batches_by_length([len(text) for text in texts], batch_size):
        in_batch = _pass(policy, [texts[i] for i in batch], [spans[i] for i in batch], layer)
        states |= zip(batch, in_batch, strict=True)
    return [states[i] for i in range(len(texts))]


@torch.inference_mode()
def _pass(
    policy: Policy, texts: Sequence[Sequence[int]], spans: Sequence[range], layer: int | str
) -> list[torch.Tensor]:
    """Run one batch, padded on the right, where no other token depends on padding."""
    outputs: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        outputs.append(output if isinstance(output, torch.Tensor) else output[0])

    handle = block_of(policy, layer).register_forward_hook(keep)
    try:
        _run(policy, texts)
    finally:
        handle.remove()
    return [outputs[-1][row, span.start : span.stop].cpu() for row, span in enumerate(spans)]


@torch.no_grad()
def last_states(policy: Policy, texts: Sequence[Sequence[int]], batch_size: int) -> torch.Tensor:
    """Return the outputs [n, L, D] of all L blocks at the last token of each text, in double precision on the CPU."""
    blocks = decoder_blocks(policy.model)
    states = torch.zeros(len(texts), len(blocks), policy.hidden_size, dtype=torch.float64)
    for batch in batches_by_length([len(text) for text in texts], batch_size):
        last = torch.tensor([len(texts[i]) - 1 for i in batch], device=policy.device)

        def keep(layer: int, output: torch.Tensor, batch: list[int] = batch, last: torch.Tensor = last) -> torch.Tensor:
            states[batch, layer] = output[torch.arange(len(batch), device=last.device), last].double().cpu()
            return output

        with on_blocks(blocks, range(len(blocks)), keep):
            _run(policy, [texts[i] for i in batch])
    return states


def _run(policy: Policy, texts: Sequence[Sequence[int]]) -> None:
    """Pass one batch through the model, padded on the right."""
    longest = max(len(text) for text in texts)
    pad = policy.tokenizer.pad_token_id
    ids = torch.tensor([[*text, *[pad] * (longest - len(text))] for text in texts], device=policy.device)
    lengths = torch.tensor([len(text) for text in texts], device=policy.device)
    mask = (torch.arange(longest, device=policy.device) < lengths[:, None]).long()
    policy.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
