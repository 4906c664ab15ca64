"""Jailbreak prompts found in the wild (arXiv:2308.03825)."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Source, evaluation_row, optional_text, text


def evaluation(row: Source) -> list[Source]:
    """A jailbreak found in the wild around a plain request (arXiv:2308.03825).

    File: the hub's allenai/tulu-3-do-anything-now-eval, which is safety-eval's task `do_anything_now`. RepBend's
    rates for DAN are fractions of 1,600 prompts and come from elsewhere (see `harmbench_cases`).
    """
    request = optional_text(row, "vanilla")
    category = optional_text(row, "source")
    return [evaluation_row(text(row, "adversarial"), True, category=category, request=request or None)]


DO_ANYTHING_NOW = Reader(
    "do_anything_now",
    'in-the-wild jailbreaks ("do anything now") around plain requests, as allenai/safety-eval has them',
    {"evaluation": evaluation},
    {"evaluation": ("adversarial",)},
    optional={"evaluation": ("vanilla", "source")},
)
