"""Perplexity of a model on held-out chats: what a changed model has kept of the ordinary answers of its base.

A score is the mean negative log-likelihood per token (nats) of the assistant's tokens of a dialogue: each answer
without outer white space, and the token that ends its turn. Its exponential is the perplexity.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from rebend.evaluation.answer_scores import row_scores
from rebend.io.chunks import ChunkStore
from rebend.models.chat import Message, UnwritableError, encode_text, prompt_text
from rebend.models.likelihood.answers import ended_answer
from rebend.models.likelihood.nll import ScoredText, total_nlls
from rebend.models.loading import Policy

TOO_LONG = "no answer of the dialogue fits the model's context"
EMPTY = "all answers of the dialogue are empty"


def score_chats(policy: Policy, chats: pa.Table, chunks: ChunkStore | None = None) -> tuple[pa.Table, dict[str, Any]]:
    """Return the mean negative log-likelihood of each dialogue (schema SCORES), and counts for the record.

    `chats` has the schema CHAT. Answers that end beyond the model's context are left out.
    """
    dialogues = [chat_texts(policy, messages) for messages in chats["messages"].to_pylist()]
    texts = [text for dialogue in dialogues if not isinstance(dialogue, str) for text in dialogue]
    totals = iter(total_nlls(policy, texts, chunks))
    results = [dialogue if isinstance(dialogue, str) else _mean(dialogue, totals) for dialogue in dialogues]
    return row_scores(chats["row_id"].to_pylist(), results), {"tokens": sum(len(text.scored) for text in texts)}


def chat_texts(policy: Policy, messages: Sequence[Message]) -> list[ScoredText] | str:
    """Return texts in which each of the assistant's answers is scored once, or why the dialogue is not scored.

    An answer follows the prompt that decoding would have at its place. If that prompt continues the text of the answer
    before it, as with most templates, both are scored in one text.
    """
    texts: list[ScoredText] = []
    answers = [(messages[:i], turn["content"]) for i, turn in enumerate(messages) if turn["role"] == "assistant" and i]
    written = [answer for answer in answers if answer[1].strip()]
    for before, answer in written:
        try:
            text = _text(policy.tokenizer, before, answer)
        except UnwritableError as error:
            return str(error)
        if len(text.tokens) > policy.context:
            break  # all later ones are longer
        if texts and text.tokens[: len(texts[-1].tokens)] == texts[-1].tokens:
            text = ScoredText(text.tokens, [*texts.pop().scored, *text.scored])
        texts.append(text)
    return texts or (TOO_LONG if written else EMPTY)


def _text(tokenizer: Any, before: Sequence[Message], answer: str) -> ScoredText:
    encode = partial(encode_text, tokenizer)
    prompt = prompt_text(tokenizer, before)
    start = encode(prompt)
    tokens = [*start, *ended_answer(tokenizer, before, prompt, answer, encode)]
    return ScoredText(tokens, list(range(max(1, len(start)), len(tokens))))


def _mean(dialogue: Sequence[ScoredText], totals: Any) -> float:
    return sum(next(totals) for _ in dialogue) / sum(len(text.scored) for text in dialogue)
