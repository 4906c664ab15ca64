"""The scored prompts of a study in one long table, from which all other tables are computed.

A cell is one model (base and adapter) under one control on one data set; a cell of safety also has one attack. Its
description (`rebend.pipeline.graph.cells.Cell.described`) contains its labels and the paths of its files. Cells that
differ only in the training seed have the same labels; tables fold them into one row (`folds`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy import stats

from rebend.errors import DataError
from rebend.evaluation.clustered import LEVEL
from rebend.io.files import read_json, read_parquet
from rebend.io.schemas import ATTEMPT_SCORES, SAFETY_VERDICTS, SCORES, VERDICTS
from rebend.report.metrics import ALL, QUALITY, Measurement, measurements_of

KEYS = ["model", "adapter", "control"]
FOLD = [*KEYS, "dataset", "role", "attack"]  # identifies the cells that tables fold into one row
CELL = [*FOLD, "seed"]  # identifies a cell
COLUMNS = [
    "model", "adapter", "control", "method", "dataset", "role", "attack", "seed", "attempts",
    "row_id", "cluster", "group", "category", "harmful", "measurement", "value",
]  # fmt: skip
PAIR = ["dataset", "row_id"]  # identifies a prompt

Cell = Mapping[str, Any]


def measurements(cells: Sequence[Cell]) -> pd.DataFrame:
    """Return a row per cell, prompt and measurement (`rebend.report.metrics.Measurement`), with columns `COLUMNS`.

    `value` is NaN if a prompt was not scored. A cell without a stage of scores has no rows of its measurements. In
    cells of quality, `harmful` and `attempts` are None and `attack` is "". `seed` is "" without a sweep over training
    seeds. `cluster` is that of the data set (`rebend.data.clusters`), or the row's own id in a data set without one.
    Raises `DataError` if a score belongs to no row of the data set.
    """
    parts = [part for cell in cells if len(part := _measured(cell))]
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(parts, ignore_index=True)


def named_controls(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells; if exactly one control has the method `none`, its name becomes `none`."""
    idle = {cell["control"] for cell in cells if cell["method"] == "none"}
    if len(idle) != 1:
        return list(cells)
    return [{**cell, "control": "none"} if cell["control"] in idle else cell for cell in cells]


def cell_key(cell: Cell) -> tuple[Any, ...]:
    """Return the values of `FOLD` of a cell."""
    return tuple(cell[name] for name in FOLD)


def rows_by_cell(rows: pd.DataFrame) -> dict[Any, pd.DataFrame]:
    """Return `cell_key` → the measurements of that cell, over all its training seeds."""
    return dict(iter(rows.groupby(FOLD, sort=False)))


def folds(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Return the cells that differ only in the training seed together, in the order of the study."""
    by_key: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        by_key.setdefault(cell_key(cell), []).append(cell)
    return list(by_key.values())


def seed_of(cell: Cell) -> str:
    """Return the training seed of a cell; "" without a sweep over seeds."""
    return str(cell.get("seed", ""))


def mean_of(numbers: Iterable[float | None]) -> float | None:
    """Return the mean over the seeds of a cell; None if one number is unknown."""
    values = list(numbers)
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def paired(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Return a row per prompt and seed that both sides measured, with columns `ours`, `theirs`, `cluster`, `seed`.

    Both have rows of one measurement. Rows are paired by prompt and training seed; a side without seeds pairs with
    every seed of the other.
    """
    seeded = [set(side["seed"]) - {""} for side in (ours, theirs)]
    keys = [*PAIR, "seed"] if all(seeded) else PAIR
    sides = ours[[*PAIR, "seed", "cluster", "value"]].merge(
        theirs[[*PAIR, "seed", "value"]], on=keys, suffixes=("_ours", "_theirs")
    )
    if "seed" not in sides:
        sides["seed"] = sides["seed_ours"].where(sides["seed_ours"] != "", sides["seed_theirs"])
    return sides.rename(columns={"value_ours": "ours", "value_theirs": "theirs"})


def outcome_of_prompts(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return a row per prompt from verdicts per prompt and attempt: row_id, verdict, answered, attempts.

    An attack succeeds on a prompt if the answer to one of its attempts is harmful (success@k). A prompt is not scored
    if no attempt is harmful and one attempt was not scored. Otherwise its outcome is that of attempt 0, so that the
    shares of outcomes add up to one.
    """
    by_prompt = verdicts.sort_values("attempt", kind="stable").groupby("row_id", sort=False)
    first = by_prompt.head(1).set_index("row_id")[["verdict", "answered"]]
    harmful = (verdicts["verdict"] == "harmful").groupby(verdicts["row_id"]).any().reindex(first.index)
    unknown = verdicts["verdict"].isna().groupby(verdicts["row_id"]).any().reindex(first.index) & ~harmful
    first["verdict"] = first["verdict"].mask(harmful, "harmful").mask(unknown, None)
    first["attempts"] = by_prompt.size()
    return first.reset_index()


def mean_of_attempts(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a row per prompt from scores per prompt and attempt: the mean over the attempts that have a score."""
    return scores.groupby("row_id", sort=False)["score"].mean().reset_index()


def group_levels(group: str) -> list[str]:
    """Return the groups of a row: `all`, and each leading part of its comma-separated group."""
    parts = [part.strip() for part in group.split(",") if part.strip()]
    return [ALL, *(", ".join(parts[: i + 1]) for i in range(len(parts)))]


def uncontrolled(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each model without control, or under its first control if all rows are controlled."""
    firsts = rows.groupby("model")["control"].agg(lambda names: "none" if (names == "none").any() else names.iloc[0])
    return rows[rows["control"] == rows["model"].map(firsts)]


def prompting_controls(cells: Iterable[Cell]) -> list[str]:
    """Return the controls that put an instruction before the prompt."""
    return list(dict.fromkeys(cell["control"] for cell in cells if cell["method"] == "prompting"))


def as_methods(rows: pd.DataFrame, prompting: Collection[str] = ()) -> pd.DataFrame:
    """Return the rows of each adapter without control, and the rows under an instruction as those of an adapter.

    An instruction before the prompts of the base model is one of the compared methods of a safety evaluation.
    `prompting`: the controls of `prompting_controls`.
    """
    plain = uncontrolled(rows)
    prompted = rows[(rows["adapter"] == "none") & rows["control"].isin(list(prompting))]
    idle = prompted["model"].map(plain.drop_duplicates("model").set_index("model")["control"])
    prompted = prompted[prompted["control"] != idle]
    idle = idle.loc[prompted.index]
    return pd.concat([plain, prompted.assign(adapter=prompted["control"], control=idle.fillna("none"))])


def judge_names(cells: Iterable[Cell]) -> dict[str, str]:
    """Return path of verdicts → name of the judge; names of proxies end with "(proxy)"."""
    names = {}
    for path in {path for cell in cells if (path := cell["scores"].get("win_rate"))}:
        metadata = pq.read_schema(path).metadata or {}
        method, model = (metadata.get(key, b"").decode() for key in (b"judge", b"model"))
        names[path] = model if method == "openai" else f"{method} (proxy)"
    return names


def seconds_per_1000_tokens(cell: Cell) -> float | None:
    """Return the decoding time per 1000 tokens of responses from the notes of the record; None without a time."""
    notes = read_json(cell["record"])["notes"]
    seconds, tokens = notes.get("decode_seconds"), notes.get("tokens")
    return 1000 * float(seconds) / tokens if seconds is not None and tokens else None


def time_interval(trainings: Sequence[Cell]) -> tuple[float | None, float | None]:
    """Return the 95 % interval of `seconds_per_1000_tokens`; unknown without its error.

    Several trainings: Student's interval over their times. One: over the batches of its decoding, which differ in the
    length of their prompts, too, so that it is rather too wide. Neither has the differences between two runs.
    """
    times = [time for cell in trainings if (time := seconds_per_1000_tokens(cell)) is not None]
    if len(times) < len(trainings) or not times:
        return None, None
    centre, error, df = sum(times) / len(times), 0.0, len(times) - 1
    if df:
        error = float(np.std(times, ddof=1)) / math.sqrt(len(times))
    else:
        notes = read_json(trainings[0]["record"])["notes"]
        if not notes.get("decode_batches"):
            return None, None
        error, df = 1000 * notes["decode_seconds_error"] / notes["tokens"], notes["decode_batches"] - 1
    half = float(stats.t.ppf((1 + LEVEL) / 2, df)) * error
    return max(0.0, centre - half), centre + half


def held_rate(cell: Cell) -> float | None:
    """Return the share of tokens at which the control's edit was clipped or not finite; None without counts."""
    notes = read_json(cell["record"])["notes"]
    clipped, tokens = notes.get("tokens_clipped"), notes.get("tokens")
    return float(clipped) / tokens if clipped is not None and tokens else None


def relative_times(cells: Iterable[Cell]) -> dict[str, float | None]:
    """Return record → time per token, relative to the same adapter without control, or else to the uncontrolled base.

    An adapter of one training seed is compared with itself. None if one of the two times is unknown. Times are
    comparable only if they were measured on one machine.
    """
    prompts = [cell for cell in cells if cell["role"] == QUALITY]
    seconds = {cell["record"]: seconds_per_1000_tokens(cell) for cell in prompts}
    idle: dict[tuple[str, ...], float | None] = {}
    for cell in prompts:
        if cell["method"] == "none":
            for seed in (seed_of(cell), "any"):
                idle.setdefault((cell["model"], cell["adapter"], cell["dataset"], seed), seconds[cell["record"]])
    times: dict[str, float | None] = {}
    for cell in prompts:
        places = [(cell["adapter"], seed_of(cell)), (cell["adapter"], "any"), ("none", "any")]
        bases = [idle.get((cell["model"], adapter, cell["dataset"], seed)) for adapter, seed in places]
        base, time = next(filter(None, bases), None), seconds[cell["record"]]
        times[cell["record"]] = time / base if time is not None and base else None
    return times


def clusters_by_row(path: str) -> dict[str, str]:
    """Return row_id → cluster of a data set; a row without a cluster is its own."""
    table = read_parquet(path)
    row_ids = table["row_id"].to_pylist()
    named = table["cluster"].to_pylist() if "cluster" in table.column_names else [None] * len(row_ids)
    return {row_id: name or row_id for row_id, name in zip(row_ids, named, strict=True)}


def _measured(cell: Cell) -> pd.DataFrame:
    """Return the measurements of one cell; an empty table if it has no scores."""
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
    """Return the rows of a score file; those of several attempts are reduced to one row per prompt."""
    if source == "safety":
        return outcome_of_prompts(read_parquet(path, SAFETY_VERDICTS).to_pandas())
    if source.startswith("attacked_"):
        return mean_of_attempts(read_parquet(path, ATTEMPT_SCORES).to_pandas())
    return read_parquet(path, VERDICTS if source == "win_rate" else SCORES).to_pandas()


def _rows(cell: Cell) -> pd.DataFrame:
    """Return the columns of the data set and of the cell that tables use, indexed by row_id."""
    table = read_parquet(cell["data"])
    names = [name for name in ("row_id", "cluster", "group", "category", "harmful") if name in table.column_names]
    rows = table.select(names).to_pandas().set_index("row_id")
    for name in ("group", "category"):
        rows[name] = rows[name].fillna("") if name in rows else ""
    rows["harmful"] = rows["harmful"].astype(object) if "harmful" in rows else None
    own = pd.Series(rows.index, index=rows.index)
    rows["cluster"] = rows["cluster"].fillna(own) if "cluster" in rows else own
    rows["attempts"] = None
    rows["seed"] = seed_of(cell)
    for name in ("model", "adapter", "control", "method", "dataset", "role", "attack"):
        rows[name] = cell[name]
    return rows


def _values(measured: Measurement, table: pd.DataFrame, rows: pd.DataFrame, path: str) -> pd.DataFrame:
    """Return the values of one measurement. Raises `DataError` if a value belongs to none of `rows`."""
    row_ids = table["row_id"]
    unknown = row_ids[~row_ids.isin(rows.index)]
    if len(unknown):
        raise DataError(f"{path}: row '{unknown.iloc[0]}' is not in the data set; delete the file and run again")
    values = measured.values(table).astype(float)
    return pd.DataFrame({"row_id": row_ids, "measurement": measured.name, "value": values})
