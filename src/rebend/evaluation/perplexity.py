"""Perplexity of generated answers under a model that did not write them: how unlikely their text is to it.

A score is the mean negative log-likelihood per token (nats) of an answer, given its prompt; its exponential is the
perplexity. Broken text of a changed model is unlikely under its base model, which no rule on words need recognise.

The prompt is that of the data set, also where a control or an attack changed it (an instruction, a suffix, input
embeddings); of a prefilled answer, the prefill stands before the first scored token and is not scored. Tokens are those
of the answer's text, which need not be those that were sampled. The token that ends the turn counts if the model chose
an end ("eos"), and not if the answer was cut at its greatest length or where it opened a new user turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from rebend.evaluation.answer_scores import answer_scores, generated_text, why_unscored
from rebend.io.chunks import ChunkStore
from rebend.io.scores import matched
from rebend.models.chat import UnwritableError, encode_text, prompt_text
from rebend.models.likelihood.answers import continuation, end_of_turn
from rebend.models.likelihood.nll import ScoredText, total_nlls
from rebend.models.loading import Policy

TOO_LONG = "prompt and answer do not fit the model's context"


def score_perplexity(
    policy: Policy, data: pa.Table, answers: pa.Table, chunks: ChunkStore | None = None
) -> tuple[pa.Table, dict[str, Any]]:
    """Return the mean negative log-likelihood of each answer under `policy`, and counts for the record.

    `answers` has the schema RESPONSES or COMPLETIONS, `data` the prompts of its rows; see `answer_scores` for the
    result. Empty answers are not scored. Raises `DataError` if an answer belongs to no row of the data set.
    """
    texts = [answer_text(policy, row) for row in matched(data, answers)]
    scored = [text for text in texts if isinstance(text, ScoredText)]
    totals = iter(total_nlls(policy, scored, chunks))
    results = [text if isinstance(text, str) else next(totals) / len(text.scored) for text in texts]
    return answer_scores(answers, results), {"tokens": sum(len(text.scored) for text in scored)}


def answer_text(policy: Policy, row: Mapping[str, Any]) -> ScoredText | str:
    """Return the tokens of prompt and answer, those of the answer to be scored; or why the answer is not scored."""
    tokenizer, answer = policy.tokenizer, generated_text(row)
    if (reason := why_unscored(answer)) is not None:
        return reason
    encode = partial(encode_text, tokenizer)
    try:
        prompt = prompt_text(tokenizer, row["messages"], row.get("prefill") or "")
    except UnwritableError as error:
        return str(error)
    end = [end_of_turn(tokenizer, row["messages"], encode)] if row["finish"] == "eos" else []
    return _within(policy, encode(prompt), [*continuation(encode, prompt, answer or ""), *end])


def _within(policy: Policy, prompt: Sequence[int], answer: Sequence[int]) -> ScoredText | str:
    tokens = [*prompt, *answer]
    if len(tokens) > policy.context:
        return TOO_LONG
    return ScoredText(tokens, range(max(1, len(prompt)), len(tokens)))
