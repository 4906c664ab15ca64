"""Test cases of an attack, in the file that HarmBench's first step writes."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import (
    Row,
    UnselectedRowError,
    UnusableRowError,
    evaluation_row,
    is_missing,
    optional_text,
)
from rebend.data.readers.safety.harmbench import read_behaviour


def evaluation(row: Row) -> list[Row]:
    """Return the test cases of a behaviour; the file has a list of prompts per BehaviorID.

    File: `test_cases.json` of the methods HumanJailbreaks and PAP. With the behaviours as the second source, the
    behaviour (with its context) is the request, and cases of other behaviours are left out. RepBend's rates for DAN fit
    HarmBench's 5 human jailbreaks for each of the 320 test behaviours, its rates for PAP fit one case for each.
    """
    cases = row["test_cases"]
    if is_missing(cases):
        raise UnusableRowError("no test case")
    if isinstance(cases, str):
        cases = [cases]
    if not isinstance(cases, list) or not all(isinstance(case, str) for case in cases):
        raise ValueError(f"'test_cases' of {row['BehaviorID']!r} is not a list of prompts")
    request, functional = None, ""
    if "Behavior" in row:
        if is_missing(row["Behavior"]):
            raise UnselectedRowError("test case of a behaviour that is not in the second file")
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
    "`reference` the behaviours",
    {"evaluation": evaluation},
    {"evaluation": ("BehaviorID", "test_cases")},
    reference=("Behavior", "FunctionalCategory", "SemanticCategory", "ContextString"),
    key="BehaviorID",
    entries=("BehaviorID", "test_cases"),
)
