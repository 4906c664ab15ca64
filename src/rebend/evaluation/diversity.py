"""Diversity of a response: how rarely it repeats its n-grams (arXiv:2406.05954, section 5; the released `metrics.py`).

    diversity = Π_{n=2..4} (1 - rep_n),   rep_n = 1 - unique n-grams / (n-grams + 1)

The released code computes rep_n in percent and divides it by 100 again; the value is the same. Its `+ 1` is kept: a
text without repetition scores slightly less than 1 (m n-grams: m / (m + 1)), and a text of fewer than four words
scores 0, also an empty text.

Words are those of NLTK's `word_tokenize`, as in the released code, with a fixed Punkt model (see `words/punkt.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rebend.evaluation.words.punkt import words

ORDERS = (2, 3, 4)
_CUT = re.compile(r"###USER:|\n\nUSER:")  # markers of the released code; a heading "###" is no marker


def diversity(response: str) -> float:
    """Return the diversity of one response, a rate."""
    tokens = words(cut(response))
    product = 1.0
    for order in ORDERS:
        product *= 1.0 - repetition(tokens, order)
    return product


def repetition(tokens: Sequence[str], order: int) -> float:
    """Return rep_n for n = `order`, a rate: 1 for a text without n-grams."""
    grams = [tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1)]
    return 1.0 - len(set(grams)) / (len(grams) + 1)


def cut(response: str) -> str:
    """Return the response up to the first marker of a new turn, as the released code cuts it."""
    marker = _CUT.search(response)
    return response[: marker.start()] if marker else response
