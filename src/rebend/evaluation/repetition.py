"""Repetition of a generated answer: the share of its sequences of four words that occurred in it before.

    repetition = 1 - distinct 4-grams / 4-grams

It is seq-rep-4 of arXiv:1908.04319, on words instead of tokens, so that it needs no model. Diversity
(`rebend.evaluation.diversity`) is the released code's product over three orders, which also falls for short texts.
"""

from __future__ import annotations

import pyarrow as pa

from rebend.evaluation.answer_scores import answer_scores, generated_text, why_unscored
from rebend.evaluation.words.punkt import words

ORDER = 4


def repetition(text: str) -> float:
    """Return the share of repeated 4-grams of a text, a rate; a text of fewer than four words repeats none: 0."""
    tokens = words(text)
    grams = [tuple(tokens[i : i + ORDER]) for i in range(len(tokens) - ORDER + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def score_repetition(answers: pa.Table) -> pa.Table:
    """Return the repetition of each answer of a table of schema RESPONSES or COMPLETIONS (see `answer_scores`).

    The beginning that an attack supplied does not count. Empty answers are not scored.
    """
    texts = [generated_text(row) for row in answers.to_pylist()]
    return answer_scores(answers, [why_unscored(text) or repetition(text or "") for text in texts])
