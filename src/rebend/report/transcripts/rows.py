"""The rows of the example transcripts: which prompts are shown, and which answers stand beside each other.

A harmful prompt, or an answer to one, is never shown. An evaluation data set says of each prompt whether it is harmful;
of a `prompts` data set, the study says that all its prompts are harmless (`harmless_prompts`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rebend.evaluation.judges.safety.verdict import HARMFUL
from rebend.io.files import read_parquet
from rebend.io.prompts import prompts_in
from rebend.io.schemas import COMPLETIONS, RESPONSES, SAFETY_VERDICTS, SCORES
from rebend.report.formatting import number
from rebend.report.measurements import Cell, folds, named_controls, seed_of
from rebend.report.metrics import DIRECT, QUALITY, SAFETY
from rebend.report.transcripts.plain_text import beginning, ending

COLUMNS = [
    "dataset", "row_id", "prompt", "model", "adapter", "control", "seed", "judge", "verdict", "reward", "answer",
]  # fmt: skip
NOT_SCORED = "not scored"
WITHHELD = "(not shown: the judge calls it harmful)"


def is_wanted(settings: Mapping[str, Any]) -> bool:
    """Return whether the study asks for example transcripts."""
    return bool(settings.get("transcripts", {}).get("prompts"))


def transcripts(settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row per prompt and compared cell, with columns `COLUMNS`, all of them text.

    `settings` are those of `make_tables`. The rows of a prompt stand together. `seed`, `judge`, `verdict` and `reward`
    are "" where a cell has none. Prompts and answers are cut (`plain_text.MOST`). Empty if the study asks for none.
    """
    if not is_wanted(settings):
        return pd.DataFrame(columns=COLUMNS)
    cells, lines = compared(settings), []
    harmful = _harmful_prompts(settings["cells"])
    for path in dict.fromkeys(cell["data"] for cell in cells):
        same_data = [cell for cell in cells if cell["data"] == path]
        prompts = chosen(read_parquet(path), same_data[0]["role"], settings["transcripts"]["prompts"], harmful)
        answers = [_answers(cell, list(prompts)) for cell in same_data]
        lines += [
            {"row_id": row_id, "prompt": prompt, **_names(cell), **answer[row_id]}
            for row_id, prompt in prompts.items()
            for cell, answer in zip(same_data, answers, strict=True)
        ]
    return pd.DataFrame(lines, columns=COLUMNS)


def compared(settings: Mapping[str, Any]) -> list[Cell]:
    """Return the cells whose answers are shown, in the order of the study; of several training seeds only the first.

    These are the cells of safety without control that are asked directly, under the first such attack of the study, and
    the cells of quality on data sets whose prompts are all harmless.
    """
    cells: dict[tuple[str, ...], Cell] = {}
    for cell, *_ in folds(named_controls(settings["cells"])):
        asked = cell["role"] == SAFETY and cell["attack_method"] == DIRECT and cell["method"] == "none"
        vouched = cell["role"] == QUALITY and cell["data"] in settings["transcripts"]["harmless"]
        if asked or vouched:
            cells.setdefault((cell["data"], cell["model"], cell["adapter"], cell["control"]), cell)
    return list(cells.values())


def left_out(settings: Mapping[str, Any]) -> list[str]:
    """Return the data sets of ordinary prompts that are not shown, because the study does not call them harmless."""
    cells, harmless = settings["cells"], settings["transcripts"]["harmless"]
    hidden = (cell["dataset"] for cell in cells if cell["role"] == QUALITY and cell["data"] not in harmless)
    return list(dict.fromkeys(hidden))


def chosen(data: pa.Table, role: str, count: int, harmful: Collection[str] = ()) -> dict[str, str]:
    """Return row_id → text of the first `count` harmless prompts of a data set by the SHA-256 of their row ids.

    `role` is that of the cells: the rows of an evaluation data set must say that they are harmless. `harmful` has the
    keys (`rebend.io.prompts`) of prompts that are left out, whatever this data set says of them.
    """
    prompts: dict[str, str] = {}
    for row in sorted(data.to_pylist(), key=lambda row: hashlib.sha256(row["row_id"].encode()).hexdigest()):
        if len(prompts) == count:
            break
        # An unknown mark counts as harmful, also in a data set that should have marks and has none.
        is_harmless = row.get("harmful", None if role == SAFETY else False) is False
        if is_harmless and not any(key in harmful for key in prompts_in(row["messages"])):
            prompts[row["row_id"]] = ending(_dialogue(row["messages"]))
    return prompts


def _harmful_prompts(cells: Sequence[Cell]) -> set[str]:
    """Return the keys of all prompts that an evaluation data set of the study does not call harmless."""
    files = dict.fromkeys(cell["data"] for cell in cells if cell["role"] == SAFETY)
    return {key for path in files for messages in _harmful_messages(path) for key in prompts_in(messages)}


def _harmful_messages(path: str) -> Iterator[Sequence[Mapping[str, str]]]:
    rows = read_parquet(path).select(["messages", "harmful"]).to_pylist()
    yield from (row["messages"] for row in rows if row["harmful"] is not False)


def _dialogue(messages: Sequence[Mapping[str, str]]) -> str:
    """Return the prompt; turns before it are shown too, each after its role."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in messages)


def _names(cell: Cell) -> dict[str, str]:
    names = {name: cell[name] for name in ("dataset", "model", "adapter", "control")}
    return {**names, "seed": seed_of(cell)}


def _answers(cell: Cell, row_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return row_id → answer, with the first safety judge and its verdict, or with the reward; "" without a score."""
    if cell["role"] == SAFETY:
        return _judged(cell, row_ids)
    answers = _of_rows(read_parquet(cell["responses"], RESPONSES), row_ids)
    path = cell["scores"].get("reward")
    scores = _of_rows(read_parquet(path, SCORES), row_ids) if path else {}
    reward = {row_id: number(score["score"]) or NOT_SCORED for row_id, score in scores.items()}
    nothing = {"judge": "", "verdict": ""}
    return {
        row_id: {**nothing, "reward": reward.get(row_id, ""), "answer": _shown(answers.get(row_id))}
        for row_id in row_ids
    }


def _judged(cell: Cell, row_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the first try of each prompt, with its verdict."""
    answers = _of_rows(read_parquet(cell["responses"], COMPLETIONS), row_ids)
    path = cell["scores"]["safety"]  # of the first judge
    verdicts = _of_rows(read_parquet(path, SAFETY_VERDICTS), row_ids)
    judge = next((name for name, file in cell["judges"].items() if file == path), "")
    lines = {}
    for row_id in row_ids:
        verdict = verdicts.get(row_id, {}).get("verdict") or NOT_SCORED
        answer = WITHHELD if verdict == HARMFUL else _shown(answers.get(row_id))
        lines[row_id] = {"judge": judge, "verdict": verdict, "reward": "", "answer": answer}
    return lines


def _of_rows(table: pa.Table, row_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return row_id → its row; of several attempts the first. Other rows are never turned into text."""
    table = table.filter(pc.is_in(table["row_id"], value_set=pa.array(row_ids, pa.string())))
    if "attempt" in table.column_names:
        table = table.filter(pc.equal(table["attempt"], 0))
    return {row["row_id"]: row for row in table.to_pylist()}


def _shown(answer: Mapping[str, Any] | None) -> str:
    if answer is None:
        return "(no answer)"
    return beginning(answer["response"]) or "(empty)"
