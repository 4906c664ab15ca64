"""Encoded prompts and decoded responses, the input and output of both ways of decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from rebend.config.decoding import Decoding
from rebend.errors import ModelError
from rebend.generation.intervention import Control, NoControl
from rebend.models.chat import Message, UnwritableError, encode_texts, prompt_text
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
    return len(request) + decoding.max_new_tokens <= policy.context


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
