"""How far safety judges agree on the same completions: in pairs, in the rate they would report, and where not.

Only verdicts count: a completion that one judge did not score says nothing about how it agrees with others.
No text of a prompt or completion is in any of the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.metrics import cohen_kappa_score

from rebend.cells import outcome_of_prompts
from rebend.errors import DataError
from rebend.schemas import SAFETY_VERDICTS
from rebend.verdicts import HARMFUL

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
