"""HarmBench's behaviours (arXiv:2402.04249)."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import (
    CONTEXT_END,
    Source,
    UnselectedRowError,
    UnusableRowError,
    evaluation_row,
    optional_text,
    text,
    word,
)

_FUNCTIONAL = ("standard", "contextual", "copyright")


def evaluation(row: Source) -> list[Source]:
    """A behaviour (arXiv:2402.04249); a contextual one is put after its context, as HarmBench itself does.

    File: `harmbench_behaviors_text_test.csv`; the second source is `harmbench_targets_text.json`, whose string for
    the BehaviorID is the target. Copyright behaviours are judged by comparing with the protected text, which no
    judge here does.
    """
    prompt, functional = read_behaviour(row)
    if "target" in row and row["target"] is None:
        raise ValueError(f"the second file has no target for BehaviorID {row.get('BehaviorID')!r}")
    category = optional_text(row, "SemanticCategory")
    return [evaluation_row(prompt, True, group=functional, category=category, target=optional_text(row, "target"))]


def read_behaviour(row: Source) -> tuple[str, str]:
    """What a behaviour asks for, after its context if it has one, and which of the selected kinds it is."""
    functional = word(row, "FunctionalCategory", _FUNCTIONAL) or ""
    if functional == "copyright":
        raise UnselectedRowError("copyright behaviour")
    behaviour, context = text(row, "Behavior"), optional_text(row, "ContextString")
    if functional == "contextual" and not context.strip():
        raise UnusableRowError("contextual behaviour without ContextString")
    return (f"{context}{CONTEXT_END}{behaviour}" if context.strip() else behaviour), functional


HARMBENCH = Reader(
    "harmbench",
    "HarmBench behaviours, standard and contextual (copyright behaviours are left out); with `reference` the "
    "target strings by BehaviorID",
    {"evaluation": evaluation},
    {"evaluation": ("Behavior", "FunctionalCategory")},
    optional={"evaluation": ("ContextString", "SemanticCategory", "BehaviorID")},
    reference=("target",),
    key="BehaviorID",
    reference_entries=("BehaviorID", "target"),
)
