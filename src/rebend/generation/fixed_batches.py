"""Decode responses in fixed, left-padded batches: every row is decoded until the last one ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from rebend.config.decoding import Decoding
from rebend.generation.growing_cache import GrowingCache, has_ordinary_cache
from rebend.generation.intervention import Control, NoControl, Search, SearchStart, StateEditor
from rebend.generation.requests import Request, Response, anchor_of, left_padded
from rebend.generation.sampling import row_seed, samplers, with_checkpoint
from rebend.generation.stopping import StopOnText, cut_response, end_token, end_tokens
from rebend.models.hooks import before_head, on_prompts
from rebend.models.loading import Policy


def generate_batch(
    policy: Policy,
    requests: Sequence[Request],
    decoding: Decoding,
    *,
    control: Control | None = None,
    keep_states: bool = False,
) -> list[Response]:
    """Decode the requests in one batch. Either all have token ids or all have embeddings.

    States of prompts are not stored, so memory does not grow with them.
    """
    control, decoding = control or NoControl(), with_checkpoint(decoding, policy.model.generation_config)
    seeds = [row_seed(decoding.seed, request.key) for request in requests]
    prompts = left_padded(policy, requests)
    start = prompts["input_ids"].shape[1] if "input_ids" in prompts else 0  # `generate` does not return embeddings
    ends = end_tokens(policy)
    stops = StopOnText(policy.tokenizer, decoding.stop, start, ends, prompts["attention_mask"])
    edit = control.begin(seeds)
    search = control.search(_search_start(policy, requests, decoding, prompts["attention_mask"], ends))
    editor = StateEditor(stops, edit, keep_states, search, control.norm_limit)
    steps = [*([search] if search else []), *samplers(decoding, seeds, start, policy.device)]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(before_head(policy.model, editor))
        stack.enter_context(_generation_settings(policy, decoding, ends))
        if control.whole_prompt:
            stack.enter_context(on_prompts(policy.model, editor.edit_prompt))
        output = policy.model.generate(
            **prompts,
            **_cache(policy, search),
            logits_processor=LogitsProcessorList(steps),
            stopping_criteria=StoppingCriteriaList([stops]),
        )
    return _responses(policy, requests, decoding, output[:, start:].tolist(), editor)


def _cache(policy: Policy, search: Search | None) -> dict[str, Any]:
    """Return the argument with the batch's KV cache; nothing for a model whose cache the library must choose."""
    if search is not None:
        return {"past_key_values": search.cache}
    return {"past_key_values": GrowingCache(policy.model.config)} if has_ordinary_cache(policy.model) else {}


def _search_start(
    policy: Policy, requests: Sequence[Request], decoding: Decoding, mask: torch.Tensor, ends: list[int]
) -> SearchStart:
    messages, prefills = [request.messages for request in requests], [request.prefill for request in requests]
    return SearchStart(policy, messages, mask, ends, decoding.max_new_tokens, prefills)


def _responses(
    policy: Policy, requests: Sequence[Request], decoding: Decoding, generated: list[list[int]], editor: StateEditor
) -> list[Response]:
    """Return the responses of a batch from its generated tokens."""
    norms, clipped, states = editor.collected()
    edits, acts = editor.edit is not None, editor.edit is not None or editor.search is not None
    ends = set(end_tokens(policy))
    responses = []
    for row, (request, ids) in enumerate(zip(requests, generated, strict=True)):
        n, text, finish = cut_response(policy.tokenizer, anchor_of(request), ids, ends, decoding.stop)
        end = end_token(policy.tokenizer, ids, n, finish, ends, decoding.stop)
        responses.append(
            Response(
                text=request.prefill + text,
                token_ids=ids[:n],
                finish=finish,
                edit_norm=float(norms[row, :n].mean()) if edits and n else 0.0,
                n_clipped=int(clipped[row, :n].sum()) if acts else 0,
                end_token=end,
                states=states[row, : n + (end is not None)].clone() if states is not None else None,
            )
        )
    return responses


@contextmanager
def _generation_settings(policy: Policy, decoding: Decoding, ends: list[int]) -> Iterator[None]:
    """Replace the checkpoint's generation settings by those of `decoding` inside the `with` block."""
    checkpoint_settings = policy.model.generation_config
    policy.model.generation_config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,  # `rebend.generation.sampling` samples, and leaves one finite logit
        eos_token_id=ends,
        pad_token_id=policy.tokenizer.pad_token_id,
        use_cache=True,
    )
    try:
        yield
    finally:
        policy.model.generation_config = checkpoint_settings
