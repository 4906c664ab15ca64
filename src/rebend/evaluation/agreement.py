"""Agreement between judges on the same rows."""

from __future__ import annotations

from collections.abc import Sequence

import krippendorff
import numpy as np


def krippendorff_alpha(verdicts: Sequence[Sequence[str | None]]) -> float | None:
    """Return Krippendorff's alpha for nominal verdicts, at most 1 (full agreement); 0 is the agreement of chance.

    `verdicts[j][i]` is the verdict of judge j on row i, None without a verdict. Rows with fewer than two verdicts are
    left out. None if alpha is undefined: no row has two verdicts, or all verdicts in such rows are equal.
    Raises `ValueError` if the lists have different lengths.
    Source: Krippendorff, Content Analysis (2018), chapter 12, computed by the package krippendorff.
    """
    rows = [row for row in zip(*verdicts, strict=True) if sum(word is not None for word in row) >= 2]
    words = sorted({word for row in rows for word in row if word is not None})
    if len(words) < 2:
        return None
    code = {word: float(number) for number, word in enumerate(words)}
    table = np.array([[np.nan if word is None else code[word] for word in row] for row in rows]).T  # [judges, rows]
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement="nominal"))
