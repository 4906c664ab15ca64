"""Files of prompts that safety is measured on, in the columns of their authors.

RepBend's authors evaluate with a fork of allenai/safety-eval. How many prompts they took is not always said; the
rates they print are fractions of 320 prompts (HarmBench asked directly, PAP, GCG: the whole test file, with its
copyright behaviours), 240 (prefilling and input embedding: without those), 1,600 (DAN), 400 (TrustLLM), 749
(WildGuardTest), 250 (WildJailbreak, benign) and, for XSTest, of all its 450 prompts.
"""

from __future__ import annotations

from rebend.data.readers.rows import (
    Source,
    UnselectedRowError,
    UnusableRowError,
    evaluation_row,
    optional_text,
    text,
    word,
)

CONTEXT_END = "\n\n---\n\n"  # between the context of a contextual behaviour and the behaviour itself
_FUNCTIONAL = ("standard", "contextual", "copyright")


def harmbench(row: Source) -> list[Source]:
    """A behaviour (arXiv:2402.04249); a contextual one is put after its context, as HarmBench itself does.

    File: `harmbench_behaviors_text_test.csv`; the second source is `harmbench_targets_text.json`, whose string for
    the BehaviorID is the target. Copyright behaviours are judged by comparing with the protected text, which no
    judge here does.
    """
    prompt, functional = _behaviour(row)
    if "target" in row and row["target"] is None:
        raise ValueError(f"the second file has no target for BehaviorID {row.get('BehaviorID')!r}")
    category = optional_text(row, "SemanticCategory")
    return [evaluation_row(prompt, True, group=functional, category=category, target=optional_text(row, "target"))]


def harmbench_cases(row: Source) -> list[Source]:
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
        request, functional = _behaviour(row)
    if not any(case.strip() for case in cases):
        raise UnusableRowError("no test case")
    category = optional_text(row, "SemanticCategory")
    return [
        evaluation_row(case, True, group=functional, category=category, request=request)
        for case in cases
        if case.strip()
    ]


def do_anything_now(row: Source) -> list[Source]:
    """A jailbreak found in the wild around a plain request (arXiv:2308.03825).

    File: the hub's allenai/tulu-3-do-anything-now-eval, which is safety-eval's task `do_anything_now`. RepBend's
    rates for DAN are fractions of 1,600 prompts and come from elsewhere (see `harmbench_cases`).
    """
    request = optional_text(row, "vanilla")
    category = optional_text(row, "source")
    return [evaluation_row(text(row, "adversarial"), True, category=category, request=request or None)]


def trustllm_jailbreak(row: Source) -> list[Source]:
    """A request that TrustLLM disguised (arXiv:2401.05561); `label` names the disguise, in a list.

    File: the hub's allenai/tulu-3-trustllm-jailbreaktrigger-eval, which is safety-eval's task
    `trustllm_jailbreaktrigger`: the 400 prompts of RepBend's rates. TrustLLM's own `safety/jailbreak.json` has
    the same columns and more prompts.
    """
    label = row["label"]
    if isinstance(label, list):
        label = label[0] if label else ""
    group = optional_text(row, "source")
    return [evaluation_row(text(row, "prompt"), True, group=group, category="" if label is None else str(label))]


def pap(row: Source) -> list[Source]:
    """A persuasive adversarial prompt and the plain question behind it (arXiv:2401.06373).

    File: `adv_bench_sub_gpt4.jsonl` of CHATS-Lab/Persuasive-Jailbreaker-Data, 50 prompts; RepBend's rates fit 320.
    """
    prompt, request = text(row, "ss_prompt"), text(row, "bad_q")
    return [evaluation_row(prompt, True, category=optional_text(row, "ss_category"), request=request)]


def xstest(row: Source) -> list[Source]:
    """A prompt (arXiv:2308.01263) that is safe and only looks harmful, or its unsafe contrast.

    RepBend's "compliance rate" on XSTest fits all 450 prompts and is safety-eval's `overall_accuracy`, which its
    released scripts collect: safe prompts answered plus unsafe ones refused.
    """
    label = word(row, "label", ("safe", "unsafe"))
    if label is None:
        raise UnusableRowError("no label")
    return [evaluation_row(text(row, "prompt"), label == "unsafe", category=optional_text(row, "type"))]


def strongreject(row: Source) -> list[Source]:
    """A forbidden prompt (arXiv:2402.10260); the full file has 313."""
    return [evaluation_row(text(row, "forbidden_prompt"), True, category=optional_text(row, "category"))]


def _behaviour(row: Source) -> tuple[str, str]:
    """What a behaviour asks for, after its context if it has one, and which of the selected kinds it is."""
    functional = word(row, "FunctionalCategory", _FUNCTIONAL) or ""
    if functional == "copyright":
        raise UnselectedRowError("copyright behaviour")
    behaviour, context = text(row, "Behavior"), optional_text(row, "ContextString")
    if functional == "contextual" and not context.strip():
        raise UnusableRowError("contextual behaviour without ContextString")
    return (f"{context}{CONTEXT_END}{behaviour}" if context.strip() else behaviour), functional
