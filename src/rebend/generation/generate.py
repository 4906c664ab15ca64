"""Responses from a policy: batched, left-padded, with KV cache, and the same whatever else is in the batch.

Sampling draws from a stream of random numbers that belongs to the response alone (its key and the seed),
so that order, batch size and the number of shards change nothing but rounding in the logits.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

import pyarrow as pa
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from rebend.config.decoding import Decoding
from rebend.generation.intervention import Newest
from rebend.generation.sampling import Watch, row_seed, samplers, turn_tokens
from rebend.io.chunks import ChunkStore
from rebend.io.memory import memory_advice
from rebend.io.progress import progress
from rebend.io.schemas import RESPONSES
from rebend.models.batching import batches_by_length
from rebend.models.chat import Message, prompt_text
from rebend.models.hooks import before_head, on_prompts
from rebend.models.loading import Policy
from rebend.recontrol.methods.controls import Control, NoControl, SearchStart


@dataclass(frozen=True)
class Request:
    """What one response starts from; `key` names its random numbers."""

    key: str
    prompt_ids: list[int]
    prefill: str = ""
    embeddings: torch.Tensor | None = None  # [T, D]: read in place of the embeddings of `prompt_ids`
    messages: Sequence[Message] = ()  # the prompt without what a control adds, for a search by another model

    def __len__(self) -> int:
        """Number of positions of the prompt."""
        return len(self.prompt_ids) if self.embeddings is None else len(self.embeddings)


@dataclass(frozen=True)
class Response:
    """One response, cut by the response mask."""

    text: str  # with the prefill in front
    token_ids: list[int]  # generated ones that belong to the response: T of them, without EOS
    finish: str  # "eos", "length" or "turn"
    displacement: float = 0.0  # mean length of the control's change per token; 0 for none
    held: int = 0  # tokens at which the control was bounded or not finite
    states: torch.Tensor | None = None  # [T, D] on the CPU: token t was sampled from row t


def generate(
    policy: Policy,
    messages: Sequence[Sequence[Message]],
    decoding: Decoding,
    *,
    prefills: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    control: Control | None = None,
    parts: ChunkStore | None = None,
) -> list[Response | None]:
    """Return one response per prompt, in the order of the prompts.

    None stands for a prompt that leaves no room for `max_new_tokens` in the model's context. `keys` (the
    positions, if absent) seed the sampling. Finished batches are kept in `parts`.
    """
    control, parts = control or NoControl(), parts or ChunkStore(None)
    requests = make_requests(policy, messages, prefills=prefills, keys=keys, control=control)
    fitting = [i for i, request in enumerate(requests) if has_room(policy, request, decoding)]
    responses: list[Response | None] = [None] * len(requests)
    batches = batches_by_length([len(requests[i]) for i in fitting], decoding.batch_size)
    with memory_advice("a smaller decoding.batch_size or max_new_tokens"):
        for number, batch in enumerate(progress(batches, "decoding", total=len(batches))):
            rows = [fitting[i] for i in batch]

            def make(rows: list[int] = rows) -> list[dict[str, Any]]:
                return [vars(r) for r in generate_batch(policy, [requests[i] for i in rows], decoding, control=control)]

            for row, found in zip(rows, parts.get_or_make(f"batch-{number:05d}", make), strict=True):
                responses[row] = Response(**found)
    return responses


def decode(
    policy: Policy, rows: Sequence[dict[str, Any]], decoding: Decoding, control: Control, parts: ChunkStore
) -> tuple[pa.Table, dict[str, Any]]:
    """Return responses (schema RESPONSES) to rows of a prompts data set, and counts for the record.

    A prompt without room in the context has a null response.
    """
    found = generate(
        policy,
        [row["messages"] for row in rows],
        decoding,
        keys=[row["row_id"] for row in rows],
        control=control,
        parts=parts,
    )
    table = pa.Table.from_pylist(
        [
            {
                "row_id": row["row_id"],
                "response": response and response.text,
                "n_tokens": len(response.token_ids) if response else 0,
                "finish": response and response.finish,
                "displacement": response.displacement if response else 0.0,
            }
            for row, response in zip(rows, found, strict=True)
        ],
        RESPONSES,
    )
    tokens = sum(table["n_tokens"].to_pylist())
    held = sum(response.held for response in found if response)
    if held:
        print(f"WARNING: the control was held back at {held} of {tokens} tokens", file=sys.stderr, flush=True)
    return table, {"tokens": tokens, "tokens_held_back": held, "prompts_without_room": found.count(None)}


def make_requests(
    policy: Policy,
    messages: Sequence[Sequence[Message]],
    *,
    prefills: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    control: Control | None = None,
) -> list[Request]:
    """Encode prompts, changed by `control` if it changes prompts, with their prefill."""
    control = control or NoControl()
    prefills = prefills if prefills is not None else [""] * len(messages)
    keys = keys if keys is not None else [str(i) for i in range(len(messages))]
    texts = [
        prompt_text(policy.tokenizer, control.messages(m), prefill)
        for m, prefill in zip(messages, prefills, strict=True)
    ]
    encoded = policy.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return [
        Request(key, ids, prefill, messages=asked)
        for key, ids, prefill, asked in zip(keys, encoded, prefills, messages, strict=True)
    ]


def has_room(policy: Policy, request: Request, decoding: Decoding) -> bool:
    """Whether prompt and longest response fit into the context that the model was made for."""
    return len(request) + decoding.max_new_tokens <= room(policy)


def room(policy: Policy) -> float:
    """Return how many positions the model was made for; infinity if it does not say."""
    return getattr(policy.model.config, "max_position_embeddings", None) or inf


def generate_batch(
    policy: Policy,
    requests: Sequence[Request],
    decoding: Decoding,
    *,
    control: Control | None = None,
    keep_states: bool = False,
) -> list[Response]:
    """Decode the requests together: all of token ids or all of embeddings.

    Memory does not grow with the prompts: only newest states are kept.
    """
    seeds = [row_seed(decoding.seed, request.key) for request in requests]
    prompts = _left_padded(policy, requests)
    start = prompts["input_ids"].shape[1] if "input_ids" in prompts else 0  # embeddings are not given back
    ends = end_tokens(policy)
    watch = Watch(policy.tokenizer, decoding.stop, start, ends, prompts["attention_mask"])
    edit = (control or NoControl()).begin(seeds)
    search = (control or NoControl()).search(
        SearchStart(
            policy,
            [r.messages for r in requests],
            prompts["attention_mask"],
            ends,
            decoding.max_new_tokens,
            [r.prefill for r in requests],
        )
    )
    newest = Newest(watch, edit, keep_states, search)
    steps = [*([search] if search else []), *samplers(decoding, seeds, start, policy.device)]
    with ExitStack() as around:
        around.enter_context(torch.inference_mode())
        around.enter_context(before_head(policy.model, newest))
        around.enter_context(_own_settings(policy, decoding, ends))
        if control and control.whole_prompt:
            around.enter_context(on_prompts(policy.model, newest.prompt))
        output = policy.model.generate(
            **prompts,
            **({"past_key_values": search.cache} if search else {}),
            logits_processor=LogitsProcessorList(steps),
            stopping_criteria=StoppingCriteriaList([watch]),
        )
    generated = output[:, start:].tolist()
    moved, held, states = newest.collected()
    responses = []
    for row, (request, ids) in enumerate(zip(requests, generated, strict=True)):
        n, text, finish = response_mask(policy.tokenizer, request, ids, set(ends), decoding.stop)
        responses.append(
            Response(
                text=request.prefill + text,
                token_ids=ids[:n],
                finish=finish,
                displacement=float(moved[row, :n].mean()) if edit and n else 0.0,
                held=int(held[row, :n].sum()) if edit or search else 0,
                states=states[row, :n].clone() if states is not None else None,
            )
        )
    return responses


def response_mask(
    tokenizer: Any, request: Request, ids: Sequence[int], ends: set[int], stop: Sequence[str]
) -> tuple[int, str, str]:
    """Return how many of the generated `ids` are the response, its text, and why it ended.

    The response ends before the first token in `ends`, or before the first of the texts `stop`, where the
    model begins to speak for the user; a special token counts as its text. A token belongs to the response
    if any of its characters does.
    """
    # A tokenizer may drop the space before the first word that it decodes: keep a word before it.
    anchor = request.prompt_ids[-4:] if request.prefill else []

    def decode(tokens: Sequence[int]) -> str:
        return tokenizer.decode([*anchor, *tokens], skip_special_tokens=True, clean_up_tokenization_spaces=False)

    skip = len(decode([]))
    turns = turn_tokens(tokenizer, stop)
    n = next((i for i, token in enumerate(ids) if token in ends or token in turns), len(ids))
    finish = "length" if n == len(ids) else "turn" if ids[n] in turns else "eos"
    text = decode(ids[:n])[skip:]
    cuts = [at for word in stop if (at := text.find(word)) >= 0]
    if not cuts:
        return n, text, finish
    cut = min(cuts)
    n = bisect_left(range(n), cut, key=lambda k: len(decode(ids[:k])) - skip)
    return n, text[:cut], "turn"


def _left_padded(policy: Policy, requests: Sequence[Request]) -> dict[str, torch.Tensor]:
    """Return attention mask [B, T] and input ids [B, T], or embeddings [B, T, D], padded on the left."""
    longest = max(len(request) for request in requests)
    mask = [[0] * (longest - len(request)) + [1] * len(request) for request in requests]
    prompts = {"attention_mask": torch.tensor(mask, device=policy.device)}
    embeddings = [request.embeddings for request in requests if request.embeddings is not None]
    if embeddings:
        padded = pad_sequence(embeddings, batch_first=True, padding_side="left")
        return {**prompts, "inputs_embeds": padded.to(policy.device, policy.model.dtype)}
    pad = policy.tokenizer.pad_token_id
    ids = [[pad] * (longest - len(request)) + request.prompt_ids for request in requests]
    return {**prompts, "input_ids": torch.tensor(ids, device=policy.device)}


def end_tokens(policy: Policy) -> list[int]:
    """Tokens that end a response: the tokenizer's EOS and pad, and those that the checkpoint names."""
    named = policy.model.generation_config.eos_token_id
    ends = named if isinstance(named, list) else [named]
    own = [policy.tokenizer.eos_token_id, policy.tokenizer.pad_token_id]
    return sorted({token for token in [*ends, *own] if token is not None})


@contextmanager
def _own_settings(policy: Policy, decoding: Decoding, ends: list[int]) -> Iterator[None]:
    """Inside the block nothing but `decoding` decides: a checkpoint's own sampling settings are put aside."""
    kept = policy.model.generation_config
    policy.model.generation_config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,  # sampling is done by `rebend.generation.sampling`, which hands over one choice
        eos_token_id=ends,
        pad_token_id=policy.tokenizer.pad_token_id,
        use_cache=True,
    )
    try:
        yield
    finally:
        policy.model.generation_config = kept
