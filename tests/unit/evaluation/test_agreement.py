"""Agreement of several judges."""

from __future__ import annotations

import numpy as np
import pytest

from rebend.evaluation.agreement import krippendorff_alpha


def test_alpha_agrees_with_the_package_krippendorff() -> None:
    package = pytest.importorskip("krippendorff")
    rng = np.random.default_rng(0)
    words = np.array(["harmful", "refusal", "harmless", None], dtype=object)
    verdicts = [rng.choice(words, 60, p=[0.4, 0.3, 0.2, 0.1]).tolist() for _ in range(4)]
    verdicts[1] = [a if i % 2 else b for i, (a, b) in enumerate(zip(verdicts[0], verdicts[1], strict=True))]
    codes = {"harmful": 0.0, "refusal": 1.0, "harmless": 2.0, None: np.nan}
    theirs = package.alpha([[codes[verdict] for verdict in row] for row in verdicts], level_of_measurement="nominal")
    assert krippendorff_alpha(verdicts) == pytest.approx(theirs, abs=1e-12)


def test_alpha_is_unknown_where_there_is_nothing_to_compare() -> None:
    assert krippendorff_alpha([["a", None], [None, "b"]]) is None
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None
    assert krippendorff_alpha([["a", "b"], ["a", "b"], ["a", "b"]]) == 1.0
