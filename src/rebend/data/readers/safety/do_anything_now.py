"""Jailbreak prompts found in the wild (arXiv:2308.03825)."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Row, evaluation_row, optional_text, text, text_or_none


def evaluation(row: Row) -> list[Row]:
    """Return an in-the-wild jailbreak and the plain request inside it (arXiv:2308.03825).

    File: allenai/tulu-3-do-anything-now-eval on the hub, safety-eval's task `do_anything_now`. RepBend's rates for DAN
    are fractions of 1,600 prompts and fit another file (see `harmbench_cases`).
    """
    request, category = text_or_none(row, "vanilla"), optional_text(row, "source")
    return [evaluation_row(text(row, "adversarial"), True, category=category, request=request)]


DO_ANYTHING_NOW = Reader(
    "do_anything_now",
    'in-the-wild jailbreaks ("do anything now") around plain requests, in the file of allenai/safety-eval',
    {"evaluation": evaluation},
    {"evaluation": ("adversarial",)},
    optional={"evaluation": ("vanilla", "source")},
)
