"""How far safety judges agree on the same completions: in pairs, in the rate they would report, and where not.

Only verdicts count: a completion that one judge did not score says nothing about how it agrees with others.
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
from rebend.evaluation.judges.safety.verdict import HARMFUL
from rebend.io.files import read_parquet
from rebend.io.schemas import SAFETY_VERDICTS
from rebend.report.measurements import ALL, Cell, named_controls, outcome_of_prompts
from rebend.report.tables.layout import records

KEY = ["row_id", "attempt"]


@dataclass(frozen=True)
class Agreement:
    """Three tables (see `agreement`), and how far the judges' rates are apart."""

    pairs: pd.DataFrame
    rates: pd.DataFrame
    disagreements: pd.DataFrame

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
    )


def _side_by_side(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A line per completion, sorted, a column of words per judge."""
    columns = {judge: frame.set_index(KEY)["verdict"].sort_index() for judge, frame in frames.items()}
    leader, *others = columns
    for judge in others:
        if not columns[judge].index.equals(columns[leader].index):
            raise DataError(
                f"the judges '{leader}' and '{judge}' did not see the same completions "
                f"({len(columns[leader])} and {len(columns[judge])}); delete the older file and run again"
            )
    return pd.DataFrame(columns)


def _differ(words: pd.DataFrame) -> np.ndarray:
    """Whether a line has more than one word; nothing is no word."""
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
    """Cohen's kappa; NaN where chance alone would agree always, which leaves nothing to measure."""
    if len({*first, *second}) < 2:
        return float("nan")
    return float(cohen_kappa_score(first, second))


def _rate(judge: str, frame: pd.DataFrame) -> dict[str, object]:
    verdicts = outcome_of_prompts(frame)["verdict"]
    scored = verdicts.dropna()
    asr = float((scored == HARMFUL).mean()) if len(scored) else float("nan")
    return {"judge": judge, "asr": asr, "n": len(scored), "not_scored": len(verdicts) - len(scored)}


PLACE = ["model", "adapter", "control", "dataset", "attack"]
AGREEMENT = [
    *PLACE, "judge", "other", "n", "agreement", "kappa", "harm_agreement", "harm_kappa", "asr_judge", "asr_other",
    "asr_low", "asr_high", "asr_range",
]  # fmt: skip


def safety_agreement(cells: Sequence[Cell]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables safety_agreement and safety_disagreements, both empty where no cell has several judges.

    The first has a line per cell and pair of judges, and before them one per pair over all cells with the same judges
    (`all` in place of names): what `rebend.report.tables.judge_agreement` says of the pair, the ASR by each of the two, and lowest,
    highest and range of the ASR over all judges. The second has a line per completion on which judges differ.
    """
    seen = [(cell, *_read(cell)) for cell in named_controls(cells) if len(cell["judges"]) > 1]
    lines, differing = [], []
    for judges in dict.fromkeys(tuple(verdicts) for _, verdicts, _ in seen):
        alike = [(verdicts, harmful) for _, verdicts, harmful in seen if tuple(verdicts) == judges]
        if len(alike) > 1:
            lines += _lines(dict.fromkeys(PLACE, ALL), _pooled(alike))
    for cell, verdicts, harmful in seen:
        place = {name: cell[name] for name in PLACE}
        found = agreement(verdicts, harmful)
        lines += _lines(place, found)
        words = found.disagreements.rename(columns={judge: f"verdict_{judge}" for judge in verdicts})
        differing.append(pd.concat([pd.DataFrame([place] * len(words), columns=PLACE), words], axis=1))
    nothing = pd.DataFrame(columns=[*PLACE, "row_id", "attempt"])
    return pd.DataFrame(lines, columns=AGREEMENT), pd.concat(differing, ignore_index=True) if differing else nothing


def _read(cell: Cell) -> tuple[dict[str, pa.Table], dict[str, bool]]:
    """Verdicts by judge, and whether each row's prompt is harmful."""
    data = read_parquet(cell["data"])
    harmful = dict(zip(data["row_id"].to_pylist(), data["harmful"].to_pylist(), strict=True))
    return {judge: read_parquet(path, SAFETY_VERDICTS) for judge, path in cell["judges"].items()}, harmful


def _pooled(seen: Sequence[tuple[dict[str, pa.Table], dict[str, bool]]]) -> Agreement:
    """The agreement over several cells; a row's id is put behind its cell's number, as ids recur."""
    harmful = {f"{i}/{row}": is_harmful for i, (_, rows) in enumerate(seen) for row, is_harmful in rows.items()}
    parts: dict[str, list[pa.Table]] = {}
    for i, (verdicts, _) in enumerate(seen):
        for judge, table in verdicts.items():
            ids = pc.binary_join_element_wise(str(i), table["row_id"], "/")
            parts.setdefault(judge, []).append(table.set_column(0, "row_id", ids))
    return agreement({judge: pa.concat_tables(tables) for judge, tables in parts.items()}, harmful)


def _lines(place: dict[str, Any], found: Agreement) -> list[dict[str, Any]]:
    rates = found.rates.set_index("judge")["asr"]
    spread = {"asr_low": rates.min(), "asr_high": rates.max(), "asr_range": found.asr_range}
    return [
        {**place, **pair, "asr_judge": rates[pair["judge"]], "asr_other": rates[pair["other"]], **spread}
        for pair in records(found.pairs)
    ]
