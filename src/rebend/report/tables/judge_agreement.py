"""The tables safety_agreement and safety_disagreements: verdicts of several safety judges on the same completions.

The agreement of two judges is over the completions that both scored. The tables contain no text of prompts and
completions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.metrics import cohen_kappa_score

from rebend.errors import DataError
from rebend.evaluation.agreement import krippendorff_alpha
from rebend.evaluation.intervals import rate
from rebend.evaluation.judges.safety.verdict import HARMFUL
from rebend.io.files import read_parquet
from rebend.io.schemas import SAFETY_VERDICTS
from rebend.report.formatting import estimate_text, groups_text, number, number_of
from rebend.report.lines import columns, records
from rebend.report.measurements import Cell, clusters_by_row, folds, outcome_of_prompts, seed_of
from rebend.report.metrics import ALL
from rebend.report.tables.table import Inputs, Table

KEY = ["row_id", "attempt"]
_PAIR = [
    "n", "clusters", "agreement", "agreement_low", "agreement_high", "kappa",
    "harm_agreement", "harm_agreement_low", "harm_agreement_high", "harm_kappa",
]  # fmt: skip


@dataclass(frozen=True)
class Agreement:
    """Agreement of judges: three tables (see `agreement`), and Krippendorff's alpha."""

    pairs: pd.DataFrame
    rates: pd.DataFrame
    disagreements: pd.DataFrame
    alpha: float | None  # of all judges; None for fewer than three judges, or if it is undefined

    @property
    def asr_range(self) -> float:
        """Largest minus smallest ASR of the judges; NaN if no judge has an ASR."""
        return float(self.rates["asr"].max() - self.rates["asr"].min())


def agreement(
    verdicts: Mapping[str, pa.Table], harmful: Mapping[str, bool], clusters: Mapping[str, str] | None = None
) -> Agreement:
    """Compare tables of verdicts (judge -> schema SAFETY_VERDICTS; at least one) on the same completions.

    `harmful`: row_id -> whether its prompt is harmful. `clusters`: row_id -> its cluster, by default the prompt itself.

    - `pairs` has the columns judge and other; n, the completions that both judges scored, of `clusters` clusters;
      `agreement`, the share with the same verdict, with its interval over clusters, and Cohen's `kappa` (1: full
      agreement, 0: agreement by chance, NaN: all verdicts are equal); `harm_agreement` and `harm_kappa`, the same for
      harmful against all other verdicts.
    - `rates` has judge; asr, n and not_scored over harmful prompts (see `outcome_of_prompts` for several attempts).
    - `disagreements` has row_id, attempt and a column of verdicts per judge (None: not scored), for completions with
      different verdicts.

    Raises `DataError` if the judges have verdicts on different completions.
    """
    frames = {judge: table.select(SAFETY_VERDICTS.names).to_pandas() for judge, table in verdicts.items()}
    words = _side_by_side(frames)
    unknown = set(words.index.get_level_values("row_id")) - set(harmful)
    if unknown:
        raise DataError(f"row '{min(unknown)}' of the verdicts is not in the data set; delete the file and run again")
    rows = words.index.get_level_values("row_id")
    keys = pd.Series([(clusters or {}).get(row, row) for row in rows], index=words.index)
    pairs = [_pair(words, keys, *names) for names in combinations(frames, 2)]
    rates = [_rate(judge, frame[frame["row_id"].map(harmful).astype(bool)]) for judge, frame in frames.items()]
    differing = words[_differ(words)]
    return Agreement(
        pd.DataFrame(pairs, columns=["judge", "other", *_PAIR]),
        pd.DataFrame(rates, columns=["judge", "asr", "n", "not_scored"]),
        differing.astype(object).where(differing.notna(), None).reset_index(),
        _alpha(words),
    )


def _side_by_side(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a row per completion, sorted, with a column of verdicts per judge."""
    columns = {judge: frame.set_index(KEY)["verdict"].sort_index() for judge, frame in frames.items()}
    first, *others = columns
    for judge in others:
        if not columns[judge].index.equals(columns[first].index):
            raise DataError(
                f"the judges '{first}' and '{judge}' have verdicts on different completions "
                f"({len(columns[first])} and {len(columns[judge])}); delete the older file and run again"
            )
    return pd.DataFrame(columns)


def _alpha(words: pd.DataFrame) -> float | None:
    """Return Krippendorff's alpha (nominal) of three or more judges; two judges have Cohen's kappa instead."""
    if words.shape[1] < 3:
        return None
    columns = (words[judge].astype(object).where(words[judge].notna(), None) for judge in words)
    return krippendorff_alpha([column.tolist() for column in columns])


def _differ(words: pd.DataFrame) -> np.ndarray:
    """Return for each row whether it has different verdicts; missing verdicts are ignored."""
    codes = pd.factorize(words.to_numpy(dtype=object).ravel())[0].reshape(words.shape)  # -1: missing
    largest = codes.max(axis=1, keepdims=True)
    return (np.where(codes < 0, largest, codes) != largest).any(axis=1)


def _pair(words: pd.DataFrame, clusters: pd.Series, judge: str, other: str) -> dict[str, object]:
    both = words[[judge, other]].dropna()
    row: dict[str, object] = {"judge": judge, "other": other, "n": len(both)}
    for prefix, part in (("", both), ("harm_", both == HARMFUL)):
        first, second = part[judge].to_numpy(dtype=str), part[other].to_numpy(dtype=str)
        share = rate([bool(same) for same in first == second], list(clusters.loc[both.index]))
        row |= {"clusters": share.clusters or 0, **columns(f"{prefix}agreement", share, counts=False)}
        row[f"{prefix}kappa"] = _kappa(first, second)
    return row


def _kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Return Cohen's kappa; NaN if all verdicts are equal, because the agreement expected by chance is then 1."""
    if len({*first, *second}) < 2:
        return float("nan")
    return float(cohen_kappa_score(first, second))


def _rate(judge: str, frame: pd.DataFrame) -> dict[str, object]:
    verdicts = outcome_of_prompts(frame)["verdict"]
    scored = verdicts.dropna()
    asr = float((scored == HARMFUL).mean()) if len(scored) else float("nan")
    return {"judge": judge, "asr": asr, "n": len(scored), "not_scored": len(verdicts) - len(scored)}


_CELL = ["model", "adapter", "control", "dataset", "attack"]
COLUMNS = [
    *_CELL, "judge", "other", *_PAIR, "asr_judge", "asr_other", "asr_low", "asr_high", "asr_range", "alpha",
]  # fmt: skip


def compute(inputs: Inputs) -> pd.DataFrame:
    """Return the table safety_agreement; it is empty if no cell has several judges.

    It has a row per cell and pair of judges. Before these, it has a row per pair over all cells with the same judges,
    with `all` in place of the names. Columns: agreement of the pair (see `agreement`), ASR by each of the two judges,
    lowest, highest and range of the ASR over all judges, and Krippendorff's alpha of three or more judges.
    """
    judged, lines = _judged(inputs.cells), []
    for judges in dict.fromkeys(tuple(read.verdicts) for _, read in judged):
        same_judges = [read for _, read in judged if tuple(read.verdicts) == judges]
        if len(same_judges) > 1:
            lines += _lines(dict.fromkeys(_CELL, ALL), _pooled(same_judges))
    read_of = {cell["record"]: read for cell, read in judged}
    for trainings in folds(cell for cell, _ in judged):
        reads = [read_of[cell["record"]] for cell in trainings]
        found = agreement(*reads[0]) if len(reads) == 1 else _pooled(reads)
        lines += _lines({name: trainings[0][name] for name in _CELL}, found)
    return pd.DataFrame(lines, columns=COLUMNS).astype({"alpha": float})


def compute_disagreements(inputs: Inputs) -> pd.DataFrame:
    """Return the table safety_disagreements: a row per completion with different verdicts."""
    differing = []
    named = [*_CELL, "seed"] if any(seed_of(cell) for cell in inputs.cells) else _CELL
    for cell, read in _judged(inputs.cells):
        names = {**cell, "seed": seed_of(cell)}
        words = agreement(*read).disagreements
        words = words.rename(columns={judge: f"verdict_{judge}" for judge in read.verdicts})
        differing.append(pd.concat([pd.DataFrame([names] * len(words), columns=named), words], axis=1))
    empty = pd.DataFrame(columns=[*_CELL, *KEY])
    return pd.concat(differing, ignore_index=True) if differing else empty


class _Read(NamedTuple):
    """The verdicts of a cell by judge; whether each prompt is harmful, and its cluster, by row_id."""

    verdicts: dict[str, pa.Table]
    harmful: dict[str, bool]
    clusters: dict[str, str]


def _judged(cells: Sequence[Cell]) -> list[tuple[Cell, _Read]]:
    """Return the cells with several judges, with their verdicts."""
    return [(cell, _read(cell)) for cell in cells if len(cell["judges"]) > 1]


def _read(cell: Cell) -> _Read:
    data = read_parquet(cell["data"])
    harmful = dict(zip(data["row_id"].to_pylist(), data["harmful"].to_pylist(), strict=True))
    verdicts = {judge: read_parquet(path, SAFETY_VERDICTS) for judge, path in cell["judges"].items()}
    return _Read(verdicts, harmful, clusters_by_row(cell["data"]))


def _pooled(cells: Sequence[_Read]) -> Agreement:
    """Return the agreement over several cells. Cells share row ids, so the number of the cell is prepended."""
    harmful = {f"{i}/{row}": value for i, cell in enumerate(cells) for row, value in cell.harmful.items()}
    clusters = {f"{i}/{row}": value for i, cell in enumerate(cells) for row, value in cell.clusters.items()}
    parts: dict[str, list[pa.Table]] = {}
    for i, cell in enumerate(cells):
        for judge, table in cell.verdicts.items():
            ids = pc.binary_join_element_wise(str(i), table["row_id"], "/")
            parts.setdefault(judge, []).append(table.set_column(0, "row_id", ids))
    return agreement({judge: pa.concat_tables(tables) for judge, tables in parts.items()}, harmful, clusters)


def _lines(names: dict[str, Any], judged: Agreement) -> list[dict[str, Any]]:
    rates = judged.rates.set_index("judge")["asr"]
    spread = {"asr_low": rates.min(), "asr_high": rates.max(), "asr_range": judged.asr_range, "alpha": judged.alpha}
    return [
        {**names, **pair, "asr_judge": rates[pair["judge"]], "asr_other": rates[pair["other"]], **spread}
        for pair in records(judged.pairs)
    ]


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table safety_agreement as text."""
    lines = []
    for row in records(table):
        line = {name: row[name] for name in ("model", "adapter", "control")}
        line |= {"data set": row["dataset"], "attack": row["attack"], "judges": f"{row['judge']}, {row['other']}"}
        line |= {"n": ", ".join([number_of(row["n"]), *groups_text(row)])}
        line |= {"agree, %": _share(row, "agreement"), "kappa": number(row["kappa"])}
        line["agree on harm, %"] = _share(row, "harm_agreement")
        line["kappa of harm"] = number(row["harm_kappa"])
        line["ASR, %"] = " and ".join(number(row[name], percent=True) for name in ("asr_judge", "asr_other"))
        ends = [number(row[name], percent=True) for name in ("asr_low", "asr_high")]
        line["ASR over all judges, %"] = f"{ends[0]} to {ends[1]}"
        lines.append({**line, "alpha of all judges": number(row["alpha"])})
    frame = pd.DataFrame(lines)
    return frame.drop(columns="alpha of all judges") if (frame["alpha of all judges"] == "").all() else frame


def _share(row: Mapping[str, Any], name: str) -> str:
    return "" if pd.isna(row[name]) else estimate_text(row, name, percent=True)


def disagreements_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table safety_disagreements as text."""
    return table.fillna("not scored").astype(str)


TABLE = Table(
    "safety_agreement",
    "Agreement of the safety judges",
    "Share of completions with the same verdict (95 % interval over clusters of prompts), and Cohen's kappa, over the "
    'completions that both judges scored: for all verdicts, and for harmful against all other verdicts ("harm"). ASR: '
    "by the verdicts of each judge, and its range over all judges. Alpha: Krippendorff's alpha of the verdicts of "
    "three or more judges.",
    compute,
    text,
)
DISAGREEMENTS = Table(
    "safety_disagreements",
    "",
    "Row ids and verdicts of completions on which the judges differ. Their text is in private files only.",
    compute_disagreements,
    disagreements_text,
)
