"""Safety judges that are language models on this machine: fill the classifier's prompt, decode its answer greedily.

A response is judged as the user would see it, including the prefill. Only answers in the form of the classifier's
training data are parsed; any other answer is not scored. (RepBend's released evaluation counts it as -1 in averages.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from rebend.config.decoding import Decoding
from rebend.config.safety import ModelJudgeBlock
from rebend.generation.fixed_batches import generate_batch
from rebend.generation.requests import Request
from rebend.io.chunks import ChunkStore
from rebend.io.progress import progress
from rebend.models.batching import batches_by_length
from rebend.models.loading import Policy, load_policy

NO_ROOM = "prompt leaves no room in the judge's context"
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("rebend.evaluation.judges.safety", ""),
    undefined=jinja2.StrictUndefined,
    autoescape=False,
)


@dataclass(frozen=True)
class ClassifierPrompt:
    """The prompt of a classifier, and limits of its parts."""

    template: str
    new_tokens: int  # longest answer, tokens
    response_tokens: int | None  # maximum; a longer response is truncated. None: limited by the context only
    begins_itself: bool  # the template contains the begin-of-text token


def ask(
    prompt: ClassifierPrompt,
    settings: ModelJudgeBlock,
    variables: Sequence[Mapping[str, str]],
    judge_model: str | Path,
    folder: str | Path,
) -> list[str | None]:
    """Return the greedy answer to the prompt for each of `variables`; None if the prompt has no room.

    Prompts of similar length share a batch; answers of finished batches are stored in `folder`.
    """
    if not variables:
        return []
    policy = load_policy(judge_model, settings.dtype, chat=False)
    encoded = [encode(policy, prompt, settings.max_length, values) for values in variables]
    fitting = [(i, ids) for i, ids in enumerate(encoded) if ids is not None]
    decoding = Decoding(max_new_tokens=prompt.new_tokens)
    lengths = [len(ids) + prompt.new_tokens for _, ids in fitting]
    batches = batches_by_length(lengths, settings.batch_size, settings.batch_tokens)
    parts = ChunkStore(folder)
    replies: list[str | None] = [None] * len(variables)
    for number, batch in enumerate(progress(batches, "judging", total=len(batches))):
        pairs = [fitting[k] for k in batch]

        def make(pairs: list[tuple[int, list[int]]] = pairs) -> list[str]:
            responses = generate_batch(policy, [Request(str(i), ids) for i, ids in pairs], decoding)
            return [response.text for response in responses]

        for (i, _), text in zip(pairs, parts.get_or_make(f"judged-{number:05d}", make), strict=True):
            replies[i] = text
    return replies


def encode(policy: Policy, prompt: ClassifierPrompt, max_length: int, variables: Mapping[str, str]) -> list[int] | None:
    """Return the token ids of the filled prompt; the response is truncated to fit.

    None if not even one token of the response fits into `max_length` and the model's context, with the answer.
    """
    limit = min(max_length, getattr(policy.model.config, "max_position_embeddings", max_length))
    tokenizer = policy.tokenizer
    response = tokenizer(variables["response"], add_special_tokens=False)["input_ids"]
    kept = len(response)
    if prompt.response_tokens is not None:  # HarmBench counts the begin-of-text token too
        kept = min(kept, prompt.response_tokens - tokenizer.num_special_tokens_to_add())
    while kept > 0:
        text = variables["response"] if kept == len(response) else tokenizer.decode(response[:kept])
        filled = fill(prompt, {**variables, "response": text})
        ids: list[int] = tokenizer(filled, add_special_tokens=not prompt.begins_itself)["input_ids"]
        excess = len(ids) + prompt.new_tokens - limit
        if excess <= 0:
            return ids
        kept -= excess
    return None


def fill(prompt: ClassifierPrompt, variables: Mapping[str, str]) -> str:
    """Return the filled prompt; its template is in this folder."""
    return _TEMPLATES.get_template(prompt.template).render(**variables)
