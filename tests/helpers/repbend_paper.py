"""A made-up study with the printed names of RepBend's paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from rebend.io.files import write_parquet
from rebend.io.schemas import CAPABILITY

TABLE_1 = ("paper_wildguardtest", "paper_harmbench", "dan", "paper_trustllm", "pap")
ADAPTERS = ("none", "repbend_mistral", "cb_mistral", "task_arithmetic", "released_cb")
ADAPTERS_SHOWN = ("Original", "RepBend", "CB", "TA", "CB (released)")
CHANCE = {"mmlu": 0.25}  # rows of other benchmarks have none here
TOTAL = "Total average"
PRINTED = {
    "model": {
        "mistral_7b": ["Mistral-7B-Instruct-v0.2"],
        "rr_mistral_7b": ["Mistral-7B-Instruct-v0.2", "CB (released)"],
        "r2d2_zephyr_7b": ["Mistral-7B-Instruct-v0.2", "R2D2 (released)"],
        "rr_llama3_8b": ["Llama-3-8B-Instruct", "CB (released)"],
        "llama3_8b": ["Llama-3-8B-Instruct"],
        "llama3_8b_instruct": ["Llama-3-8B-Instruct"],
    },
    "adapter": {
        "repbend_mistral": ["RepBend"], "cb_mistral": ["CB"], "task_arithmetic": ["TA"],
        "released_cb": ["CB (released)"], "rmu": ["RMU"],
    },
    "dataset": {
        "paper_wildguardtest": ["WildGuardTest (ID)"], "paper_harmbench": ["HarmBench"], "dan": ["DAN"],
        "paper_trustllm": ["TrustLLM-Jailbreak"], "pap": ["PAP"], "paper_xstest": ["xstest"],
        "paper_wildjailbreak": ["wildjailbreak_benign"],
    },
    "control": {"safety_prompt": ["Safety Prompting"]},
    "attack": {
        "prefilling": ["Prefilling"], "prefilling_harmbench": ["Prefilling"], "embedding": ["Input Embed"],
        "gcg": ["GCG"],
    },
    "capability": {"paper_mmlu": ["MMLU"], "paper_truthfulqa": ["TruthfulQA"]},
}  # fmt: skip


def with_printed_names(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return cells or capabilities with the printed names of their parts."""
    return [
        {**entry, "published": {part: names.get(entry.get(part), []) for part, names in PRINTED.items()}}
        for entry in entries
    ]


def capability(root: Path, model: str, adapter: str, task: str, scores: Sequence[float | None]) -> dict[str, Any]:
    path = root / "capability" / f"{model}+{adapter}" / f"{task}.parquet"
    same = {"category": "", "chance": CHANCE.get(task)}
    lines = [
        {"row_id": f"q{i}", "score": s, "not_scored": None if s is not None else "too long", **same}
        for i, s in enumerate(scores)
    ]
    write_parquet(path, pa.Table.from_pylist(lines, CAPABILITY))
    facts = {"method": "none", "adapter_method": adapter.partition("_")[0], "task": task, "path": str(path)}
    return {"model": model, "adapter": adapter, "capability": f"paper_{task}", **facts}
