"""An invented study with result files, small enough to compute its tables by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rebend.evaluation.judges.win_rate.verdict import DETAILED_VERDICTS
from rebend.io.files import read_parquet, write_json, write_parquet
from rebend.io.schemas import COMPLETIONS, EVALUATION, PROMPTS, RESPONSES, SAFETY_VERDICTS
from rebend.io.scores import score_table

PUBLISHED = str(Path(__file__).parents[2] / "resources" / "published")
SECRET = "SECRET-COMPLETION"  # in every response; no table, figure or report may show it
METHODS = {"none": "none", "random": "random", "value": "value"}


def methods(adapter: str, attack: str) -> dict[str, str]:
    """Return the methods of an adapter (up to the first "_") and of an attack (likewise)."""
    return {"adapter_method": adapter.partition("_")[0], "attack_method": attack.partition("_")[0]}


def without(cell: dict[str, Any], *stages: str) -> dict[str, Any]:
    """Return a cell without these stages of scores."""
    return {**cell, "scores": {stage: path for stage, path in cell["scores"].items() if stage not in stages}}


def prompts_data(folder: Path, rows: int = 40, name: str = "chats") -> Path:
    path = folder / "data" / f"{name}.parquet"
    messages = [{"role": "user", "content": "?"}]
    lines = [{"row_id": f"p{i}", "messages": messages, "reference": "r", "group": ""} for i in range(rows)]
    write_parquet(path, pa.Table.from_pylist(lines, PROMPTS))
    return path


def evaluation_data(folder: Path, name: str = "harmbench") -> Path:
    """Write 40 rows per combination of harmful or not, unseen item or phrasing; categories b and a alternate."""
    path = folder / "data" / f"{name}.parquet"
    lines = [
        {
            "row_id": f"e{harmful:d}{unseen[7]}{i}",
            "messages": [{"role": "user", "content": "?"}],
            "target": "",
            "harmful": harmful,
            "reference": None,
            "group": f"{unseen}, plain",
            "category": "ba"[i % 2],
        }
        for harmful in (True, False)
        for unseen in ("unseen item", "unseen phrasing")
        for i in range(40)
    ]
    write_parquet(path, pa.Table.from_pylist(lines, EVALUATION))
    return path


def responses(folder: Path, row_ids: Sequence[str], notes: dict[str, Any]) -> tuple[str, str]:
    path = folder / "responses.parquet"
    lines = [{"row_id": r, "response": SECRET, "n_tokens": 5, "finish": "eos", "edit_norm": 0.0} for r in row_ids]
    write_parquet(path, pa.Table.from_pylist(lines, RESPONSES))
    record = folder / "responses.json"
    settings = {"control": {"method": "value"}}
    facts = {"stage": "decode", "seconds": 4.0, "commit": "abc1234", "code": "d1g3st", "versions": {}}
    write_json(record, {**facts, "settings": settings, "notes": notes, "threads": 1, "inputs": []})
    return str(path), str(record)


def completions(folder: Path, verdicts: Sequence[dict[str, Any]], attack: str) -> tuple[str, str]:
    path, record = responses(folder, [line["row_id"] for line in verdicts], {"attack": attack})
    table = read_parquet(path).append_column("attempt", pa.array([v["attempt"] for v in verdicts], pa.int32()))
    write_parquet(path, table.append_column("prefill", pa.array([SECRET] * len(verdicts))).cast(COMPLETIONS))
    return path, record


def prompts_cell(root: Path, data: Path, model: str, adapter: str, control: str, shift: float, **changes: Any) -> dict:
    """Write the results of a cell of quality; return the cell.

    Rewards are the row number / 10 + `shift`; the last row is not scored; wins at even rows, ties at 1 in 4.
    """
    ids = [f"p{i}" for i in range(40)]
    folder = root / "cells" / data.stem / f"{model}-{adapter}-{control}"
    scores = {}
    for metric, values in {
        "reward": [i / 10 + shift for i in range(39)] + [None],
        "heldout_reward": [i / 10 - shift for i in range(40)],
        "diversity": [0.8 - shift / 20] * 40,
        "coherence": list(np.linspace(0.3, 0.5, 40) - shift / 20),
    }.items():
        write_parquet(folder / f"{metric}.parquet", score_table(ids, values))
        scores[metric] = str(folder / f"{metric}.parquet")
    words = ["win" if i % 2 == 0 else "tie" if i % 4 == 1 else "lose" for i in range(20)]
    lines = [
        {"row_id": r, "verdict": w, "state": w, "response_length": 9 + i % 3, "reference_length": 10}
        for i, (r, w) in enumerate(zip(ids, words, strict=False))
    ]
    lines.append({"row_id": "p39", "state": "refused", "not_scored": "refused: no"})
    table = pa.Table.from_pylist(lines, DETAILED_VERDICTS)
    write_parquet(folder / "verdicts.parquet", table, {"judge": "world_rubric", "model": ""})
    path, record = responses(folder, ids, {"decode_seconds": 3.0, "tokens": 1500, "tokens_clipped": 0})
    return {
        "model": model, "adapter": adapter, "control": control,
        "method": METHODS.get(control.removeprefix("my_"), control),
        **methods(adapter, ""), "dataset": data.stem, "role": "quality", "attack": "", "published": {},
        "data": str(data), "responses": path, "record": record, "judges": {},
        "scores": {**scores, "win_rate": str(folder / "verdicts.parquet")}, **changes,
    }  # fmt: skip


def safety_cell(
    root: Path, data: Path, model: str, adapter: str, control: str, harmful: int, attack: str = "direct", **changes: Any
) -> dict:
    """Write the results of a cell of safety; return the cell.

    Of 40 harmful rows of each kind, `harmful` are answered, the next 5 refused, the rest incoherent; one is null.
    The direct attack has 40 benign rows of each kind, too: 36 answered, 2 answered wrongly, 1 refused, 1 incoherent.
    """
    folder = root / "cells" / data.stem / f"{model}-{adapter}-{control}-{attack}"
    lines = []
    for row in read_parquet(data).to_pylist():
        i = int(row["row_id"][3:])
        if attack != "direct" and not row["harmful"]:
            continue
        word: str | None
        if row["harmful"]:
            word = "harmful" if i < harmful else "refusal" if i < harmful + 5 else "incoherent"
            word = None if i == 39 else word
        else:
            word = "refusal" if i == 38 else "incoherent" if i == 39 else "harmless"
        why = None if word else "no response"
        answered = None if word is None else not row["harmful"] and i < 36
        line = {"row_id": row["row_id"], "attempt": 0, "verdict": word, "answered": answered, "not_scored": why}
        lines.append(line)
    write_parquet(folder / "safety.parquet", pa.Table.from_pylist(lines, SAFETY_VERDICTS))
    others = [{**line, "verdict": "refusal"} if line["verdict"] == "incoherent" else line for line in lines]
    write_parquet(folder / "matcher.parquet", pa.Table.from_pylist(others, SAFETY_VERDICTS))
    judges = {"truth": str(folder / "safety.parquet"), "matcher": str(folder / "matcher.parquet")}
    path, record = completions(folder, lines, attack)
    return {
        "model": model, "adapter": adapter, "control": control,
        "method": METHODS.get(control), "dataset": data.stem,
        **methods(adapter, attack), "role": "safety", "attack": attack, "published": {}, "data": str(data),
        "responses": path, "record": record, "scores": {"safety": str(folder / "safety.parquet")}, "judges": judges,
        **changes,
    }  # fmt: skip


def study(root: Path, **changes: Any) -> dict[str, Any]:
    """Return settings of tables, figures and report for {none, repbend} x {none, random, value}."""
    chats, harm = prompts_data(root), evaluation_data(root)
    shifts = {"none": 0.0, "random": 0.2, "value": 1.0}
    cells = [
        cell
        for adapter, harmful in (("none", 34), ("repbend", 2))
        for control, shift in shifts.items()
        for cell in (
            prompts_cell(root, chats, "tiny", adapter, control, shift),
            safety_cell(root, harm, "tiny", adapter, control, harmful),
            safety_cell(root, harm, "tiny", adapter, control, harmful, "prefilling"),
        )
    ]
    return {
        "study": "made_up", "title": "A made-up study", "paper": None, "published": PUBLISHED, "cells": cells,
        "claims": [], "capabilities": [], "chats": [], "adapters": [adapter_metrics(root)],
        "value_models": [value_model_metrics(root)],
        "strengths": [strength(root, "tiny"), strength(root, "tiny+repbend")], "states": [states(root)], **changes,
    }  # fmt: skip


def adapter_metrics(root: Path) -> dict[str, str]:
    steps = np.arange(1, 51)
    table = {"step": pa.array(steps, pa.int32()), "lr": [1e-3] * 50, "grad_norm": np.exp(-steps / 20)}
    for i, name in enumerate(("safe_norm", "unsafe_norm", "unsafe_cosine", "retain_kl", "total")):
        table[name] = np.exp(-steps / 30) * (i + 1) * (-1 if name == "total" else 1)
    write_parquet(root / "adapter" / "metrics.parquet", pa.table(table))
    return {"model": "tiny", "adapter": "repbend", "metrics": str(root / "adapter" / "metrics.parquet")}


def value_model_metrics(root: Path) -> dict[str, str]:
    epochs = np.arange(1, 21)
    table = {"epoch": pa.array(epochs, pa.int32()), "train_loss": 1 / epochs, "held_out_loss": 1 / epochs + 0.1}
    table |= {"held_out_error": 1 / epochs + 0.2, "rank_first": 0.02 * epochs, "rank_middle": 0.03 * epochs}
    table |= {"rank_last": 0.04 * epochs, "rank_end": 0.03 * epochs, "chosen": epochs == 18}
    write_parquet(root / "value" / "metrics.parquet", pa.table(table))
    return {"model": "tiny", "value_model": "mlp", "metrics": str(root / "value" / "metrics.parquet")}


def strength(root: Path, model: str) -> dict[str, str]:
    alphas = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0]
    lines = [
        {
            "step_size": a, "reward": -1 + 1.4 * a - 0.25 * a * a, "n": 100, "not_scored": 0,
            "reward_ci_low": -1.2 + 1.4 * a - 0.25 * a * a, "reward_ci_high": -0.8 + 1.4 * a - 0.25 * a * a,
            "diversity": 0.84 + 0.02 * a if a < 2 else 0.84 - 0.3 * (a - 1.6), "coherence": 0.6 - 0.02 * a,
        }
        for a in alphas
    ]  # fmt: skip
    path = root / "strengths" / f"{model}.json"
    write_json(path, {"step_size": 1.5, "reason": "because", "n_steps": 30, "min_diversity": 0.9, "table": lines})
    return {"model": model, "control": "value", "path": str(path)}


def states(root: Path) -> dict[str, str]:
    rng = np.random.default_rng(0)
    lines = []
    for label, centre in (("safe", 0.0), ("unsafe", 2.0)):
        for stage in ("before", "after"):
            moved = 4.0 if (label, stage) == ("unsafe", "after") else 0.0
            for i, (x, y) in enumerate(rng.normal([centre + moved, moved], 0.6, (60, 2))):
                lines.append({"row_id": f"{label}{i}", "label": label, "stage": stage, "x": x, "y": y})
    write_parquet(root / "states" / "states.parquet", pa.Table.from_pylist(lines))
    return {"model": "tiny", "adapter": "repbend", "path": str(root / "states" / "states.parquet")}
