"""HarmBench's behaviours (arXiv:2402.04249)."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import (
    CONTEXT_END,
    Row,
    UnselectedRowError,
    UnusableRowError,
    evaluation_row,
    is_missing,
    optional_text,
    text,
    word,
)

_FUNCTIONAL = ("standard", "contextual", "copyright")


def evaluation(row: Row) -> list[Row]:
    """Return a behaviour (arXiv:2402.04249); a contextual behaviour follows its context, as in HarmBench's code.

    File: `harmbench_behaviors_text_test.csv`. The second source is `harmbench_targets_text.json`, which has a target
    string for each BehaviorID. Copyright behaviours are left out: HarmBench judges them by comparison with the
    protected text, and no judge here does so.
    """
    prompt, functional = read_behaviour(row)
    if "target" in row and is_missing(row["target"]):
        raise ValueError(f"the second file has no target for BehaviorID {row.get('BehaviorID')!r}")
    category = optional_text(row, "SemanticCategory")
    return [evaluation_row(prompt, True, group=functional, category=category, target=optional_text(row, "target"))]


def read_behaviour(row: Row) -> tuple[str, str]:
    """Return the prompt of a behaviour, with its context if it has one, and its functional category."""
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
