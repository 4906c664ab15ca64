"""Decode responses in fixed, left-padded batches with a KV cache.

A response's random numbers depend on its key and the seed only, so order, batch size and number of shards change only
the rounding of the logits.
"""

from __future__ import annotations

import sys
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
from rebend.errors import ModelError
from rebend.generation.intervention import Control, NoControl, SearchStart, StateEditor
from rebend.generation.sampling import row_seed, samplers, with_checkpoint
from rebend.generation.stopping import StopOnText, cut_response, end_token, end_tokens
from rebend.io.chunks import ChunkStore
from rebend.io.memory import memory_advice
from rebend.io.progress import progress
from rebend.io.schemas import RESPONSES
from rebend.models.batching import batches_by_length
from rebend.models.chat import Message, UnwritableError, encode_texts, prompt_text
from rebend.models.hooks import before_head, on_prompts
from rebend.models.loading import Policy


@dataclass(frozen=True)
class Request:
    """An encoded prompt; `key` and the stage's seed give the random numbers of its response."""

    key: str
    prompt_ids: list[int]
    prefill: str = ""  # the given beginning of the response; the last part of `prompt_ids`
    embeddings: torch.Tensor | None = None  # [T, D], in place of the embeddings of `prompt_ids`
    messages: Sequence[Message] = ()  # the prompt without the control's changes, for a search by another model

    def __len__(self) -> int:
        """Return the number of positions of the prompt."""
        return len(self.prompt_ids) if self.embeddings is None else len(self.embeddings)


@dataclass(frozen=True)
class Response:
    """A response without its end token and the tokens after it."""

    text: str  # with the prefill in front
    token_ids: list[int]  # the T generated tokens
    finish: str  # "eos", "length" or "turn"
    edit_norm: float = 0.0  # mean norm of the control's edit per token; 0 without an edit
    n_clipped: int = 0  # tokens at which the edit was clipped, or a search's score was not finite
    end_token: int | None = None  # the token that ended the response, if one did; not part of it
    states: torch.Tensor | None = None  # on the CPU: row t chose token t; [T, D], or [T + 1, D] with an end token

    @property
    def chosen_ids(self) -> list[int]:
        """Return all tokens that the model chose for the response: its T tokens and the end token, if there is one."""
        return self.token_ids if self.end_token is None else [*self.token_ids, self.end_token]


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

    The response is None if the context has no room for the prompt and `max_new_tokens`. `keys` seed the sampling; the
    default is the positions. Finished batches are stored in `parts`. Raises `ModelError` if memory runs out.
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

            for row, fields in zip(rows, parts.get_or_make(f"batch-{number:05d}", make), strict=True):
                responses[row] = Response(**fields)
    return responses


def decode(
    policy: Policy, rows: Sequence[dict[str, Any]], decoding: Decoding, control: Control, parts: ChunkStore
) -> tuple[pa.Table, dict[str, Any]]:
    """Return responses (schema RESPONSES) to rows of a prompts data set, and counts for the run record.

    A prompt without room in the context has a null response.
    """
    prompts, keys = [row["messages"] for row in rows], [row["row_id"] for row in rows]
    responses = generate(policy, prompts, decoding, keys=keys, control=control, parts=parts)
    table = pa.Table.from_pylist(
        [_line(key, response) for key, response in zip(keys, responses, strict=True)], RESPONSES
    )
    tokens = sum(table["n_tokens"].to_pylist())
    clipped = sum(response.n_clipped for response in responses if response)
    if clipped:
        print(f"WARNING: the control was clipped at {clipped} of {tokens} tokens", file=sys.stderr, flush=True)
    notes: dict[str, Any] = {"tokens": tokens, "tokens_clipped": clipped, "prompts_without_room": responses.count(None)}
    if control.begin([]) is not None:
        notes["norm_limit"] = control.norm_limit if control.norm_limit < inf else None  # in lengths of the state
    if decoding.from_checkpoint:
        used = with_checkpoint(decoding, policy.model.generation_config)
        notes["sampling"] = {"temperature": used.temperature, "top_k": used.top_k, "top_p": used.top_p}
    return table, notes


def _line(row_id: str, response: Response | None) -> dict[str, Any]:
    """Return a row of RESPONSES."""
    return {
        "row_id": row_id,
        "response": response and response.text,
        "n_tokens": len(response.token_ids) if response else 0,
        "finish": response and response.finish,
        "edit_norm": response.edit_norm if response else 0.0,
    }


def make_requests(
    policy: Policy,
    messages: Sequence[Sequence[Message]],
    *,
    prefills: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    control: Control | None = None,
) -> list[Request]:
    """Return encoded prompts, with the control's changes and the prefills.

    Raises `ModelError` with the first key if the chat template cannot write a prompt.
    """
    control = control or NoControl()
    prefills = prefills if prefills is not None else [""] * len(messages)
    keys = keys if keys is not None else [str(i) for i in range(len(messages))]
    texts = _prompt_texts(policy, [control.messages(m) for m in messages], prefills, keys)
    encoded = encode_texts(policy.tokenizer, texts)
    return [
        Request(key, ids, prefill, messages=conversation)
        for key, ids, prefill, conversation in zip(keys, encoded, prefills, messages, strict=True)
    ]


def _prompt_texts(
    policy: Policy, messages: Sequence[Sequence[Message]], prefills: Sequence[str], keys: Sequence[str]
) -> list[str]:
    """Return the texts of all prompts. Raises `ModelError` with the first key and the number of unwritable ones."""
    texts: list[str] = []
    unwritable: list[tuple[str, str]] = []
    for turns, prefill, key in zip(messages, prefills, keys, strict=True):
        try:
            texts.append(prompt_text(policy.tokenizer, turns, prefill))
        except UnwritableError as error:
            unwritable.append((key, str(error)))
    if unwritable:
        first, reason = unwritable[0]
        raise ModelError(
            f"row '{first}': {reason} ({len(unwritable)} of {len(messages)} prompts are like it). Nothing was asked. "
            "Use a data set without such turns, or name a template for them with the model's key `chat_template`"
        )
    return texts


def has_room(policy: Policy, request: Request, decoding: Decoding) -> bool:
    """Return whether the prompt and the longest response fit into the model's context."""
    return len(request) + decoding.max_new_tokens <= room(policy)


def room(policy: Policy) -> float:
    """Return the number of positions of the model's context; infinity if the configuration has none."""
    return getattr(policy.model.config, "max_position_embeddings", None) or inf


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
            **({"past_key_values": search.cache} if search else {}),
            logits_processor=LogitsProcessorList(steps),
            stopping_criteria=StoppingCriteriaList([stops]),
        )
    return _responses(policy, requests, decoding, output[:, start:].tolist(), editor)


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


def anchor_of(request: Request) -> list[int]:
    """Return the prompt tokens that `cut_response` decodes in front of the response: none without a prefill."""
    return request.prompt_ids[-4:] if request.prefill else []


def left_padded(policy: Policy, requests: Sequence[Request]) -> dict[str, torch.Tensor]:
    """Return the attention mask [B, T] and input ids [B, T] or embeddings [B, T, D], padded on the left."""
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
