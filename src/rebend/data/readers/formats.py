"""What each reader can give and which columns it needs: read while Snakemake parses, so plain data only.

The readers themselves are in `rebend.data.readers`; a test keeps the two in step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rebend.errors import likely_typo


@dataclass(frozen=True)
class ReaderInfo:
    """One format: the columns that each kind needs (`a|b`: one of the two), and those it can use."""

    about: str
    columns: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reference: tuple[str, ...] = ()  # columns of the block's second source, for formats that have one
    key: str = ""  # column by which a row of the second source is found; "": line n answers line n
    entries: tuple[str, str] | None = None  # the source is a JSON object: columns of an entry's name and value
    reference_entries: tuple[str, str] | None = None  # likewise the second source

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of data set that this format can give."""
        return tuple(self.columns)

    @property
    def second_columns(self) -> tuple[str, ...]:
        """The columns that the second source needs: its key, if it is found by one, and what is taken from it."""
        return (self.key, *self.reference) if self.key else self.reference


_HH = ("chosen", "rejected")
_SHP = ("history", "human_ref_A", "human_ref_B", "labels")
_WILDGUARD = ("prompt", "response", "prompt_harm_label", "response_harm_label", "response_refusal_label")

READER_INFO: dict[str, ReaderInfo] = {
    "hh_rlhf": ReaderInfo(
        "HH-RLHF: two dialogues that differ in the last answer",
        {"preference": _HH, "prompts": _HH, "chat": _HH, "safety": _HH},
    ),
    "shp": ReaderInfo("stanfordnlp/SHP: a post and two comments", {"preference": _SHP, "prompts": _SHP}),
    "recontrol": ReaderInfo(
        "RE-Control's own test files: posts, and with `reference` the preferred comments line by line",
        {"prompts": ("history",)},
        reference=("prefer",),
    ),
    "wildjailbreak": ReaderInfo(
        "WildJailbreak: pairs of answers to harmful prompts; or its evaluation file",
        {
            "safety": ("prompt", "prompt_type", "harmless_answer", "harmful_answer"),
            "evaluation": ("adversarial", "data_type|label"),
        },
    ),
    "wildguardmix": ReaderInfo(
        "WildGuardMix: the selection of safe and unsafe answers that RepBend was trained on; or its prompts",
        {"safety": _WILDGUARD, "evaluation": ("prompt", "prompt_harm_label")},
        {"evaluation": ("adversarial", "subcategory", "response_harm_label")},
    ),
    "ultrachat": ReaderInfo("UltraChat: dialogues", {"chat": ("messages",), "prompts": ("messages",)}),
    "harmbench": ReaderInfo(
        "HarmBench behaviours, standard and contextual (copyright behaviours are left out); with `reference` the "
        "target strings by BehaviorID",
        {"evaluation": ("Behavior", "FunctionalCategory")},
        {"evaluation": ("ContextString", "SemanticCategory", "BehaviorID")},
        reference=("target",),
        key="BehaviorID",
        reference_entries=("BehaviorID", "target"),
    ),
    "harmbench_cases": ReaderInfo(
        "test cases of an attack in HarmBench's layout, lists of prompts by BehaviorID (human jailbreaks, PAP); with "
        "`reference` the behaviours themselves",
        {"evaluation": ("BehaviorID", "test_cases")},
        reference=("Behavior", "FunctionalCategory", "SemanticCategory", "ContextString"),
        key="BehaviorID",
        entries=("BehaviorID", "test_cases"),
    ),
    "do_anything_now": ReaderInfo(
        'in-the-wild jailbreaks ("do anything now") around plain requests, as allenai/safety-eval has them',
        {"evaluation": ("adversarial",)},
        {"evaluation": ("vanilla", "source")},
    ),
    "trustllm_jailbreak": ReaderInfo(
        "TrustLLM's jailbreak prompts", {"evaluation": ("prompt", "label")}, {"evaluation": ("source",)}
    ),
    "pap": ReaderInfo(
        "persuasive adversarial prompts, as their authors release them",
        {"evaluation": ("ss_prompt", "bad_q")},
        {"evaluation": ("ss_category",)},
    ),
    "xstest": ReaderInfo("XSTest: safe and unsafe prompts", {"evaluation": ("prompt", "type", "label")}),
    "strongreject": ReaderInfo("StrongREJECT: forbidden prompts", {"evaluation": ("forbidden_prompt", "category")}),
    "table": ReaderInfo(
        "any table of prompts",
        {"prompts": ("prompt",), "evaluation": ("prompt", "harmful")},
        {"prompts": ("reference", "group"), "evaluation": ("reference", "group", "category", "target", "request")},
    ),
    "world": ReaderInfo(
        "the embedded tiny world", dict.fromkeys(("preference", "prompts", "chat", "safety", "evaluation"), ())
    ),
}

WORLD_KINDS: dict[str, str] = {
    "dialogues": "chat",
    "retain": "chat",
    "preferences": "preference",
    "safety": "safety",
    "answers_test": "safety",
    "rollouts": "prompts",
    "validation": "prompts",
    "test": "prompts",
    "safety_validation": "evaluation",
    "safety_test": "evaluation",
}


def reader_mistakes(reader: str, kind: str, world_part: str | None, has_reference: bool) -> list[str]:
    """Return one sentence per way in which a data set block asks for what its reader cannot give."""
    info = READER_INFO.get(reader)
    if info is None:
        return [f"reader: there is no '{reader}'. Allowed: {', '.join(READER_INFO)}.{likely_typo(reader, READER_INFO)}"]
    mistakes = []
    if kind not in info.columns:
        able = ", ".join(name for name, other in READER_INFO.items() if kind in other.columns)
        mistakes.append(f"reader: '{reader}' gives {', '.join(info.kinds)}, not {kind}; readers that give it: {able}")
    if (reader == "world") != (world_part is not None):
        mistakes.append("reader: 'world' goes with `source: {world: ...}`, and only with it")
    elif world_part is not None and WORLD_KINDS[world_part] != kind:
        mistakes.append(f"kind: part '{world_part}' of the world is {WORLD_KINDS[world_part]}, not {kind}")
    if has_reference and not info.reference:
        able = ", ".join(name for name, other in READER_INFO.items() if other.reference)
        mistakes.append(f"reference: reader '{reader}' has no second file; readers that have one: {able}")
    return mistakes


def missing_columns(needed: Iterable[str], there: Iterable[str]) -> list[str]:
    """Return the needed columns that are not `there`; of `a|b` one is enough."""
    found = set(there)
    return [column for column in needed if not found & set(column.split("|"))]


def columns_sentence(reader: str, kind: str, gone: list[str], there: Iterable[str]) -> str:
    """Say which columns are missing, what was found, and what a missing one may be called there."""
    found = [str(name) for name in there]
    typo = next((hint for name in gone if (hint := likely_typo(name, found))), "")
    names = ", ".join("'" + name.replace("|", "' or '") + "'" for name in gone)
    return (
        f"column {names} is missing; reader '{reader}' needs it for kind '{kind}'. "
        f"Found: {', '.join(found) or 'none'}.{typo}"
    )
