"""The scored prompts of a study in one long table, from which every other table is made.

A cell is one model (base and adapter) under one control on one data set, and under one attack where safety is
evaluated. Its description (`rebend.pipeline.graph.cells.Cell.described`) holds its labels and the paths of its files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from rebend.errors import DataError
from rebend.io.files import read_json, read_parquet
from rebend.io.schemas import SAFETY_VERDICTS, SCORES, VERDICTS
from rebend.report.metrics import ALL, QUALITY, Measurement, measurements_of

KEYS = ["model", "adapter", "control"]
CELL = [*KEYS, "dataset", "role", "attack"]  # tells cells apart
COLUMNS = [
    "model", "adapter", "control", "method", "dataset", "role", "attack", "attempts",
    "row_id", "group", "category", "harmful", "measurement", "value",
]  # fmt: skip

Cell = Mapping[str, Any]


def measurements(cells: Sequence[Cell]) -> pd.DataFrame:
    """Return a row per cell, prompt and measurement (`rebend.report.metrics.Measurement`), with columns `COLUMNS`.

    `value` is NaN where a prompt was not scored. A cell without a score stage has no rows of its measurements.
    `harmful` and `attempts` are None in cells of quality; `attack` is "" there.
    Raises `DataError` if a score belongs to no row of the data set.
    """
    parts = [part for cell in cells if len(part := _measured(cell))]
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(parts, ignore_index=True)


def named_controls(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells; if the study has exactly one control of method `none`, that control is called `none`."""
    idle = {cell["control"] for cell in cells if cell["method"] == "none"}
    if len(idle) != 1:
        return list(cells)
    return [{**cell, "control": "none"} if cell["control"] in idle else cell for cell in cells]


def cell_key(cell: Cell) -> tuple[Any, ...]:
    """Return the values of `CELL` of a cell."""
    return tuple(cell[name] for name in CELL)


def rows_by_cell(rows: pd.DataFrame) -> dict[Any, pd.DataFrame]:
    """Return `cell_key` → the measurements of that cell."""
    return dict(iter(rows.groupby(CELL, sort=False)))


def outcome_of_prompts(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return one line per prompt from verdicts per prompt and attempt: verdict, answered, attempts (row_id first).

    An attack succeeds on a prompt if one of its attempts is harmful (success@k). The prompt is not scored if no
    attempt is harmful and one of them was not scored. Otherwise its outcome is that of attempt 0, so that shares add
    up to one.
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


def prompting_controls(cells: Iterable[Cell]) -> list[str]:
    """Return the controls that put an instruction before the prompt."""
    return list(dict.fromkeys(cell["control"] for cell in cells if cell["method"] == "prompting"))


def as_methods(rows: pd.DataFrame, prompting: Collection[str] = ()) -> pd.DataFrame:
    """Return the rows of each adapter without control, and those of an instruction as if it were an adapter.

    In a safety evaluation an instruction (`prompting`: see `prompting_controls`) before the base model's prompts is
    one of the compared methods.
    """
    plain = uncontrolled(rows)
    prompted = rows[(rows["adapter"] == "none") & rows["control"].isin(list(prompting))]
    own = prompted["model"].map(plain.drop_duplicates("model").set_index("model")["control"])
    prompted = prompted[prompted["control"] != own]
    own = own.loc[prompted.index]
    return pd.concat([plain, prompted.assign(adapter=prompted["control"], control=own.fillna("none"))])


def judge_names(cells: Iterable[Cell]) -> dict[str, str]:
    """Return path of verdicts → name of the judge; a proxy has "(proxy)" behind its name."""
    names = {}
    for path in {path for cell in cells if (path := cell["scores"].get("win_rate"))}:
        metadata = pq.read_schema(path).metadata or {}
        method, model = (metadata.get(key, b"").decode() for key in (b"judge", b"model"))
        names[path] = model if method == "openai" else f"{method} (proxy)"
    return names


def seconds_per_1000_tokens(cell: Cell) -> float | None:
    """Return the decoding time per 1000 tokens of responses, from the record's notes; None if it has none."""
    notes = read_json(cell["record"])["notes"]
    seconds, tokens = notes.get("decode_seconds"), notes.get("tokens")
    return 1000 * float(seconds) / tokens if seconds is not None and tokens else None


def held_rate(cell: Cell) -> float | None:
    """Return the share of tokens at which the control's edit was clipped or not finite; None if the record has none."""
    notes = read_json(cell["record"])["notes"]
    held, tokens = notes.get("tokens_clipped"), notes.get("tokens")
    return float(held) / tokens if held is not None and tokens else None


def relative_times(cells: Iterable[Cell]) -> dict[str, float | None]:
    """Return record → time per token, over that of the same adapter without control, or else of the base without.

    None where one of the two was not measured. Times of one table are comparable only if one machine took them.
    """
    prompts = [cell for cell in cells if cell["role"] == QUALITY]
    seconds = {cell["record"]: seconds_per_1000_tokens(cell) for cell in prompts}
    idle: dict[tuple[str, ...], float | None] = {}
    for cell in prompts:
        if cell["method"] == "none":
            idle.setdefault((cell["model"], cell["adapter"], cell["dataset"]), seconds[cell["record"]])
    times: dict[str, float | None] = {}
    for cell in prompts:
        bases = [idle.get((cell["model"], adapter, cell["dataset"])) for adapter in (cell["adapter"], "none")]
        base, own = next(filter(None, bases), None), seconds[cell["record"]]
        times[cell["record"]] = own / base if own is not None and base else None
    return times


def _measured(cell: Cell) -> pd.DataFrame:
    """Return the rows of one cell; none if nothing of it was scored."""
    rows, parts = _rows(cell), []
    for source, path in cell["scores"].items():
        table = _read(source, path)
        if "attempts" in table:
            rows["attempts"] = table.set_index("row_id")["attempts"].reindex(rows.index)
        parts += [_values(measured, table, rows, path) for measured in measurements_of([source])]
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(parts, ignore_index=True).join(rows, on="row_id")[COLUMNS]


def _read(source: str, path: str) -> pd.DataFrame:
    """Return the rows of a score file; of safety verdicts one row per prompt."""
    if source == "safety":
        return outcome_of_prompts(read_parquet(path, SAFETY_VERDICTS).to_pandas())
    return read_parquet(path, VERDICTS if source == "win_rate" else SCORES).to_pandas()


def _rows(cell: Cell) -> pd.DataFrame:
    """Return the facts of each prompt that the tables use, by row_id."""
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


def _values(measured: Measurement, table: pd.DataFrame, rows: pd.DataFrame, path: str) -> pd.DataFrame:
    """Return the values of one measurement, from `path`; each belongs to one of `rows`."""
    row_ids = table["row_id"]
    strangers = row_ids[~row_ids.isin(rows.index)]
    if len(strangers):
        raise DataError(f"{path}: row '{strangers.iloc[0]}' is not in the data set; delete the file and run again")
    values = measured.values(table).astype(float)
    return pd.DataFrame({"row_id": row_ids, "measurement": measured.name, "value": values})
