"""Test cases of an attack, as HarmBench's first step writes them."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Source, UnselectedRowError, UnusableRowError, evaluation_row, optional_text
from rebend.data.readers.safety.harmbench import read_behaviour


def evaluation(row: Source) -> list[Source]:
    """Every test case of a behaviour, as HarmBench's first step writes them: a list of prompts by BehaviorID.

    File: `test_cases.json` of the methods HumanJailbreaks and PAP. With the behaviours as second source, cases of
    behaviours that are not in it are left out, and the behaviour (with its context) is the request. HarmBench's
    own human jailbreaks are 5 for each of the 320 test behaviours, which is what RepBend's rates for DAN fit; its
    rates for PAP fit one case for each.
    """
    cases = row["test_cases"]
    if isinstance(cases, str):
        cases = [cases]
    if not isinstance(cases, list) or not all(isinstance(case, str) for case in cases):
        raise ValueError(f"'test_cases' of {row['BehaviorID']!r} is no list of prompts")
    request, functional = None, ""
    if "Behavior" in row:
        if row["Behavior"] is None:
            raise UnselectedRowError("test case of a behaviour that the second file does not have")
        request, functional = read_behaviour(row)
    if not any(case.strip() for case in cases):
        raise UnusableRowError("no test case")
    category = optional_text(row, "SemanticCategory")
    return [
        evaluation_row(case, True, group=functional, category=category, request=request)
        for case in cases
        if case.strip()
    ]


HARMBENCH_CASES = Reader(
    "harmbench_cases",
    "test cases of an attack in HarmBench's layout, lists of prompts by BehaviorID (human jailbreaks, PAP); with "
    "`reference` the behaviours themselves",
    {"evaluation": evaluation},
    {"evaluation": ("BehaviorID", "test_cases")},
    reference=("Behavior", "FunctionalCategory", "SemanticCategory", "ContextString"),
    key="BehaviorID",
    entries=("BehaviorID", "test_cases"),
)
