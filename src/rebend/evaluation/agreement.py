"""Agreement of several judges on the same rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def krippendorff_alpha(verdicts: Sequence[Sequence[str | None]]) -> float | None:
    """Return Krippendorff's alpha (nominal) of verdicts [judges, rows]; None where a judge gave no verdict.

    1 is full agreement, 0 the agreement of chance. Unknown (None) where no row has two verdicts or all verdicts are
    alike. Krippendorff, "Content Analysis" (2004), chapter 11.
    """
    columns = [[verdict for verdict in row if verdict is not None] for row in zip(*verdicts, strict=True)]
    pairable = [column for column in columns if len(column) > 1]
    words = sorted({verdict for column in pairable for verdict in column})
    if len(words) < 2:
        return None
    coincidences = np.zeros((len(words), len(words)))
    for column in pairable:
        counts = np.array([column.count(word) for word in words], dtype=float)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(column) - 1)
    totals, n = coincidences.sum(axis=0), coincidences.sum()
    observed = n - np.trace(coincidences)
    expected = (n * n - (totals**2).sum()) / (n - 1)
    return float(1 - observed / expected)
