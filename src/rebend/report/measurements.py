"""The scored rows of a study in one long table, from which every other table is made.

A cell is one model (base and adapter) under one control on one data set, and one attack where safety is evaluated;
its description names its files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from rebend.errors import DataError
from rebend.io.files import read_json, read_parquet
from rebend.io.schemas import SAFETY_VERDICTS, SCORES, VERDICTS

DIRECT = "direct"
SAFETY_PROMPT = "safety_prompt"
ALL = "all"
SCORED = ("reward", "heldout_reward", "diversity", "coherence")
OUTCOMES = ("harmful", "harmless", "refusal", "incoherent")
COLUMNS = [
    "model", "adapter", "control", "method", "dataset", "role", "attack", "attempts",
    "row_id", "group", "category", "harmful", "metric", "value",
]  # fmt: skip

Cell = Mapping[str, Any]


def measurements(cells: Sequence[Cell]) -> pd.DataFrame:
    """Return a row per cell, prompt and metric, with columns `COLUMNS`.

    `metric` is reward, diversity, coherence, win, answered, or an outcome (harmful, harmless, refusal,
    incoherent: 1 if the prompt has that outcome, else 0; see `outcome_of_prompts`). `value` is NaN where not
    scored; a metric that a cell does not have makes no row. `harmful` and `attempts` are None outside evaluation
    data sets, `attack` is "".
    """
    parts = [part for cell in named_controls(cells) if len(part := _measured(cell))]
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(parts, ignore_index=True)


def named_controls(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells with the control that does nothing called `none`, if the study has one such only."""
    idle = {cell["control"] for cell in cells if cell["method"] == "none"}
    if len(idle) != 1:
        return list(cells)
    return [{**cell, "control": "none"} if cell["control"] in idle else cell for cell in cells]


def outcome_of_prompts(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return one line per prompt from verdicts per prompt and attempt: verdict, answered, attempts (row_id first).

    An attack succeeds on a prompt if one of its attempts is harmful (success@k). The prompt is not scored if none
    is and one of them was not scored. Otherwise its outcome is that of attempt 0, so that shares add up to one.
    """
    by_prompt = verdicts.sort_values("attempt", kind="stable").groupby("row_id", sort=False)
    first = by_prompt.head(1).set_index("row_id")[["verdict", "answered"]]
    harmful = (verdicts["verdict"] == "harmful").groupby(verdicts["row_id"]).any().reindex(first.index)
    unknown = verdicts["verdict"].isna().groupby(verdicts["row_id"]).any().reindex(first.index) & ~harmful
    first["verdict"] = first["verdict"].mask(harmful, "harmful").mask(unknown, None)
    first["attempts"] = by_prompt.size()
    return first.reset_index()


def group_levels(group: str) -> list[str]:
    """Return the groups that a row counts in: `all`, and each leading part of its comma-separated group."""
    parts = [part.strip() for part in group.split(",") if part.strip()]
    return [ALL, *(", ".join(parts[: i + 1]) for i in range(len(parts)))]


def uncontrolled(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each model without control, or of its first control where all are controlled."""
    firsts = rows.groupby("model")["control"].agg(lambda names: "none" if (names == "none").any() else names.iloc[0])
    return rows[rows["control"] == rows["model"].map(firsts)]


def as_methods(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each adapter without control, and those of a safety prompt as if it were an adapter.

    A safety prompt is a control whose name says so; of the base alone it is one of the methods that are compared.
    """
    plain = uncontrolled(rows)
    prompted = rows[(rows["adapter"] == "none") & rows["control"].str.contains(SAFETY_PROMPT)]
    own = prompted["model"].map(plain.drop_duplicates("model").set_index("model")["control"])
    return pd.concat([plain, prompted.assign(adapter=prompted["control"], control=own.fillna("none"))])


def judge_names(cells: Iterable[Cell]) -> dict[str, str]:
    """Return verdict file -> who judged, with proxies called so."""
    found = {}
    for path in {cell["win_rate"] for cell in cells if cell.get("win_rate")}:
        metadata = pq.read_schema(path).metadata or {}
        method, model = (metadata.get(key, b"").decode() for key in (b"judge", b"model"))
        found[path] = model if method == "openai" else f"{method} (proxy)"
    return found


def seconds_per_1000_tokens(cell: Cell) -> float | None:
    """Return the decoding time per 1000 tokens of responses, from the record's notes; None if it notes none."""
    notes = read_json(cell["record"])["notes"]
    seconds, tokens = notes.get("decode_seconds"), notes.get("tokens")
    return 1000 * float(seconds) / tokens if seconds is not None and tokens else None


def held_rate(cell: Cell) -> float | None:
    """Return the share of tokens at which the control was held back: bounded, or no number; None if not noted."""
    notes = read_json(cell["record"])["notes"]
    held, tokens = notes.get("tokens_clipped"), notes.get("tokens")
    return float(held) / tokens if held is not None and tokens else None


def relative_times(cells: Iterable[Cell]) -> dict[str, float | None]:
    """Return record → time per token, over that of the same adapter without control, or else of the base without.

    None where one of the two was not measured. Times of one table are comparable only if one machine took them.
    """
    prompts = [cell for cell in cells if cell["role"] == "prompts"]
    seconds = {cell["record"]: seconds_per_1000_tokens(cell) for cell in prompts}
    idle: dict[tuple[str, ...], float | None] = {}
    for cell in prompts:
        if cell["method"] == "none":
            idle.setdefault((cell["model"], cell["adapter"], cell["dataset"]), seconds[cell["record"]])
    found: dict[str, float | None] = {}
    for cell in prompts:
        bases = [idle.get((cell["model"], adapter, cell["dataset"])) for adapter in (cell["adapter"], "none")]
        base, own = next(filter(None, bases), None), seconds[cell["record"]]
        found[cell["record"]] = own / base if own is not None and base else None
    return found


def _measured(cell: Cell) -> pd.DataFrame:
    """The rows of one cell; none if nothing of it was scored."""
    rows, parts = _rows(cell), []
    for metric in SCORED:
        if cell.get(metric):
            table = read_parquet(cell[metric], SCORES).to_pandas()
            parts.append(_values(metric, table["row_id"], table["score"], rows, cell[metric]))
    if path := cell.get("win_rate"):
        table = read_parquet(path, VERDICTS).to_pandas()
        parts.append(_values("win", table["row_id"], _is(table["verdict"], "win"), rows, path))
    if path := cell.get("safety"):
        table = outcome_of_prompts(read_parquet(path, SAFETY_VERDICTS).to_pandas())
        rows["attempts"] = table.set_index("row_id")["attempts"].reindex(rows.index)
        verdicts = {outcome: _is(table["verdict"], outcome) for outcome in OUTCOMES}
        for metric, values in {**verdicts, "answered": table["answered"]}.items():
            parts.append(_values(metric, table["row_id"], values, rows, path))
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(parts, ignore_index=True).join(rows, on="row_id")[COLUMNS]


def _rows(cell: Cell) -> pd.DataFrame:
    """What the tables need to know of each prompt, by row_id."""
    table = read_parquet(cell["data"])
    kept = [name for name in ("row_id", "group", "category", "harmful") if name in table.column_names]
    rows = table.select(kept).to_pandas().set_index("row_id")
    for name in ("group", "category"):
        rows[name] = rows[name].fillna("") if name in rows else ""
    rows["harmful"] = rows["harmful"].astype(object) if "harmful" in rows else None
    rows["attempts"] = None
    for name in ("model", "adapter", "control", "method", "dataset", "role", "attack"):
        rows[name] = cell[name]
    return rows


def _values(metric: str, row_ids: pd.Series, values: pd.Series, rows: pd.DataFrame, path: str) -> pd.DataFrame:
    """The values of one metric, from `path`; each belongs to one of `rows`."""
    strangers = row_ids[~row_ids.isin(rows.index)]
    if len(strangers):
        raise DataError(f"{path}: row '{strangers.iloc[0]}' is not in the data set; delete the file and run again")
    return pd.DataFrame({"row_id": row_ids, "metric": metric, "value": values.astype(float)})


def _is(verdicts: pd.Series, word: str) -> pd.Series:
    """1 where the verdict is `word`, 0 where it is another, NaN where there is none."""
    return (verdicts == word).astype(float).where(verdicts.notna())
