"""The tables safety_agreement and safety_disagreements: agreement of safety judges on the same completions.

Only verdicts count: a completion that one judge did not score is left out of its agreement with others.
No text of a prompt or completion is in any of the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.metrics import cohen_kappa_score

from rebend.errors import DataError
from rebend.evaluation.agreement import krippendorff_alpha
from rebend.evaluation.judges.safety.verdict import HARMFUL
from rebend.io.files import read_parquet
from rebend.io.schemas import SAFETY_VERDICTS
from rebend.report.formatting import number, number_of
from rebend.report.lines import records
from rebend.report.measurements import Cell, outcome_of_prompts
from rebend.report.metrics import ALL
from rebend.report.tables.table import Inputs, Table

KEY = ["row_id", "attempt"]


@dataclass(frozen=True)
class Agreement:
    """Three tables (see `agreement`), and how far the judges' rates are apart."""

    pairs: pd.DataFrame
    rates: pd.DataFrame
    disagreements: pd.DataFrame
    alpha: float | None  # Krippendorff's alpha of all judges; None for fewer than three, or where it is unknown

    @property
    def asr_range(self) -> float:
        """Largest less smallest ASR of the judges; NaN where none has any."""
        return float(self.rates["asr"].max() - self.rates["asr"].min())


def agreement(verdicts: Mapping[str, pa.Table], harmful: Mapping[str, bool]) -> Agreement:
    """Compare the verdict tables (judge -> schema SAFETY_VERDICTS; one at least) of the same completions.

    `harmful` says of each row_id whether its prompt is.
    `pairs`: judge, other; n, the completions that both scored; `agreement`, the share with the same word, and
    Cohen's `kappa` of the words (1 is agreement, 0 what chance gives, NaN where both judges always say one and
    the same word); `harm_agreement` and `harm_kappa`, the same for harmful against everything else, which is
    what an ASR counts.
    `rates`: judge; asr, n and not_scored over harmful prompts, several attempts on one as in the tables.
    `disagreements`: row_id, attempt and a column per judge, for completions with more than one word; None where
    a judge did not score.
    Raises `DataError` if the judges did not see the same completions.
    """
    frames = {judge: table.select(SAFETY_VERDICTS.names).to_pandas() for judge, table in verdicts.items()}
    words = _side_by_side(frames)
    unknown = set(words.index.get_level_values("row_id")) - set(harmful)
    if unknown:
        raise DataError(f"row '{min(unknown)}' of the verdicts is not in the data set; delete the file and run again")
    pairs = [_pair(words, *names) for names in combinations(frames, 2)]
    rates = [_rate(judge, frame[frame["row_id"].map(harmful).astype(bool)]) for judge, frame in frames.items()]
    differing = words[_differ(words)]
    return Agreement(
        pd.DataFrame(pairs, columns=["judge", "other", "n", "agreement", "kappa", "harm_agreement", "harm_kappa"]),
        pd.DataFrame(rates, columns=["judge", "asr", "n", "not_scored"]),
        differing.astype(object).where(differing.notna(), None).reset_index(),
        _alpha(words),
    )


def _side_by_side(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a line per completion, sorted, with a column of verdicts per judge."""
    columns = {judge: frame.set_index(KEY)["verdict"].sort_index() for judge, frame in frames.items()}
    leader, *others = columns
    for judge in others:
        if not columns[judge].index.equals(columns[leader].index):
            raise DataError(
                f"the judges '{leader}' and '{judge}' did not see the same completions "
                f"({len(columns[leader])} and {len(columns[judge])}); delete the older file and run again"
            )
    return pd.DataFrame(columns)


def _alpha(words: pd.DataFrame) -> float | None:
    """Return Krippendorff's alpha (nominal) of more than two judges; of two, Cohen's kappa stands in the pair."""
    if words.shape[1] < 3:
        return None
    columns = (words[judge].astype(object).where(words[judge].notna(), None) for judge in words)
    return krippendorff_alpha([column.tolist() for column in columns])


def _differ(words: pd.DataFrame) -> np.ndarray:
    """Return whether a line has more than one verdict; a missing verdict is none."""
    codes = pd.factorize(words.to_numpy(dtype=object).ravel())[0].reshape(words.shape)  # -1 for nothing
    most = codes.max(axis=1, keepdims=True)
    return (np.where(codes < 0, most, codes) != most).any(axis=1)


def _pair(words: pd.DataFrame, judge: str, other: str) -> dict[str, object]:
    both = words[[judge, other]].dropna()
    found: dict[str, object] = {"judge": judge, "other": other, "n": len(both)}
    for prefix, part in (("", both), ("harm_", both == HARMFUL)):
        first, second = part[judge].to_numpy(dtype=str), part[other].to_numpy(dtype=str)
        found[f"{prefix}agreement"] = float(np.mean(first == second)) if len(both) else float("nan")
        found[f"{prefix}kappa"] = _kappa(first, second)
    return found


def _kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Return Cohen's kappa; NaN where all verdicts are alike, so that chance alone would always agree."""
    if len({*first, *second}) < 2:
        return float("nan")
    return float(cohen_kappa_score(first, second))


def _rate(judge: str, frame: pd.DataFrame) -> dict[str, object]:
    verdicts = outcome_of_prompts(frame)["verdict"]
    scored = verdicts.dropna()
    asr = float((scored == HARMFUL).mean()) if len(scored) else float("nan")
    return {"judge": judge, "asr": asr, "n": len(scored), "not_scored": len(verdicts) - len(scored)}


_PLACE = ["model", "adapter", "control", "dataset", "attack"]
COLUMNS = [
    *_PLACE, "judge", "other", "n", "agreement", "kappa", "harm_agreement", "harm_kappa", "asr_judge", "asr_other",
    "asr_low", "asr_high", "asr_range", "alpha",
]  # fmt: skip


def compute(inputs: Inputs) -> pd.DataFrame:
    """Return the table safety_agreement, empty where no cell has several judges.

    A line per cell and pair of judges, and before them one per pair over all cells with the same judges (`all` in place
    of names): the agreement of the pair (see `agreement`), the ASR by each of the two, lowest, highest and range of the
    ASR over all judges, and Krippendorff's alpha of all judges where there are more than two.
    """
    judged, lines = _judged(inputs.cells), []
    for judges in dict.fromkeys(tuple(verdicts) for _, verdicts, _ in judged):
        alike = [(verdicts, harmful) for _, verdicts, harmful in judged if tuple(verdicts) == judges]
        if len(alike) > 1:
            lines += _lines(dict.fromkeys(_PLACE, ALL), _pooled(alike))
    for cell, verdicts, harmful in judged:
        lines += _lines({name: cell[name] for name in _PLACE}, agreement(verdicts, harmful))
    return pd.DataFrame(lines, columns=COLUMNS).astype({"alpha": float})


def compute_disagreements(inputs: Inputs) -> pd.DataFrame:
    """Return the table safety_disagreements: a line per completion on which the judges of a cell differ."""
    differing = []
    for cell, verdicts, harmful in _judged(inputs.cells):
        place = {name: cell[name] for name in _PLACE}
        words = agreement(verdicts, harmful).disagreements
        words = words.rename(columns={judge: f"verdict_{judge}" for judge in verdicts})
        differing.append(pd.concat([pd.DataFrame([place] * len(words), columns=_PLACE), words], axis=1))
    nothing = pd.DataFrame(columns=[*_PLACE, *KEY])
    return pd.concat(differing, ignore_index=True) if differing else nothing


def _judged(cells: Sequence[Cell]) -> list[tuple[Cell, dict[str, pa.Table], dict[str, bool]]]:
    """Return the cells with several judges, each with its verdicts by judge and which prompts are harmful."""
    return [(cell, *_read(cell)) for cell in cells if len(cell["judges"]) > 1]


def _read(cell: Cell) -> tuple[dict[str, pa.Table], dict[str, bool]]:
    """Return the verdicts by judge, and whether each row's prompt is harmful."""
    data = read_parquet(cell["data"])
    harmful = dict(zip(data["row_id"].to_pylist(), data["harmful"].to_pylist(), strict=True))
    return {judge: read_parquet(path, SAFETY_VERDICTS) for judge, path in cell["judges"].items()}, harmful


def _pooled(seen: Sequence[tuple[dict[str, pa.Table], dict[str, bool]]]) -> Agreement:
    """Return the agreement over several cells; ids recur, so the number of the cell is put before them."""
    harmful = {f"{i}/{row}": is_harmful for i, (_, rows) in enumerate(seen) for row, is_harmful in rows.items()}
    parts: dict[str, list[pa.Table]] = {}
    for i, (verdicts, _) in enumerate(seen):
        for judge, table in verdicts.items():
            ids = pc.binary_join_element_wise(str(i), table["row_id"], "/")
            parts.setdefault(judge, []).append(table.set_column(0, "row_id", ids))
    return agreement({judge: pa.concat_tables(tables) for judge, tables in parts.items()}, harmful)


def _lines(place: dict[str, Any], judged: Agreement) -> list[dict[str, Any]]:
    rates = judged.rates.set_index("judge")["asr"]
    spread = {"asr_low": rates.min(), "asr_high": rates.max(), "asr_range": judged.asr_range, "alpha": judged.alpha}
    return [
        {**place, **pair, "asr_judge": rates[pair["judge"]], "asr_other": rates[pair["other"]], **spread}
        for pair in records(judged.pairs)
    ]


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table safety_agreement as text."""
    lines = []
    for row in records(table):
        line = {name: row[name] for name in ("model", "adapter", "control")}
        line |= {"data set": row["dataset"], "attack": row["attack"], "judges": f"{row['judge']}, {row['other']}"}
        line |= {"n": number_of(row["n"]), "agree, %": number(row["agreement"], percent=True)}
        line |= {"kappa": number(row["kappa"]), "agree on harm, %": number(row["harm_agreement"], percent=True)}
        line["kappa of harm"] = number(row["harm_kappa"])
        line["ASR, %"] = " and ".join(number(row[name], percent=True) for name in ("asr_judge", "asr_other"))
        ends = [number(row[name], percent=True) for name in ("asr_low", "asr_high")]
        line["ASR over all judges, %"] = f"{ends[0]} to {ends[1]}"
        lines.append({**line, "alpha of all judges": number(row["alpha"])})
    frame = pd.DataFrame(lines)
    return frame.drop(columns="alpha of all judges") if (frame["alpha of all judges"] == "").all() else frame


def disagreements_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table safety_disagreements as text."""
    return table.fillna("not scored").astype(str)


TABLE = Table(
    "safety_agreement",
    "Agreement of the safety judges",
    "Over completions that both judges scored: the share with the same verdict and Cohen's kappa, for all verdicts and "
    "for harmful against everything else. ASR: the rate by each judge alone, and the range over all judges. Alpha: "
    "Krippendorff's alpha of all verdicts where there are more than two judges.",
    compute,
    text,
)
DISAGREEMENTS = Table(
    "safety_disagreements",
    "",
    "Completions on which judges differ, by row id; their text stays in the private files.",
    compute_disagreements,
    disagreements_text,
)
