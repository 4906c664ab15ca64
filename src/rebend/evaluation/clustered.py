"""Variance of an estimate whose rows come in clusters (prompts about one question) and from several training seeds."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
_Z = float(stats.norm.ppf((1 + LEVEL) / 2))


@dataclass(frozen=True)
class Groups:
    """The cluster and the seed of each scored row, as codes from 0; [N] each."""

    cluster: np.ndarray
    seed: np.ndarray

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return int(self.cluster.max()) + 1 if len(self.cluster) else 0

    @property
    def n_seeds(self) -> int:
        """Number of training seeds; 1 if all rows are of one training, or of none."""
        return int(self.seed.max()) + 1 if len(self.seed) else 1

    @property
    def independent(self) -> bool:
        """Whether every row is its own cluster, of one seed: ordinary formulas hold."""
        return self.n_seeds == 1 and self.n_clusters == len(self.cluster)


def groups(
    scored: Sequence[bool], clusters: Sequence[Hashable] | None = None, seeds: Sequence[Hashable] | None = None
) -> Groups:
    """Return the groups of the scored rows; without `clusters` every row is its own cluster.

    Raises `ValueError` if a list has another length than `scored`, or if seeds come without clusters: the rows of
    several seeds repeat the same prompts, which only their clusters tell.
    """
    for name, keys in (("clusters", clusters), ("seeds", seeds)):
        if keys is not None and len(keys) != len(scored):
            raise ValueError(f"{len(keys)} {name} for {len(scored)} rows")
    rows = [i for i, is_scored in enumerate(scored) if is_scored]
    seed = _codes([seeds[i] for i in rows]) if seeds is not None else np.zeros(len(rows), dtype=int)
    if clusters is None:
        if len(rows) and seed.max() > 0:
            raise ValueError("rows of several seeds need clusters, because they repeat the same prompts")
        return Groups(np.arange(len(rows)), seed)
    return Groups(_codes([clusters[i] for i in rows]), seed)


def _codes(keys: Sequence[Hashable]) -> np.ndarray:
    code: dict[Hashable, int] = {}
    return np.array([code.setdefault(key, len(code)) for key in keys], dtype=int)


@dataclass(frozen=True)
class Spread:
    """Variance of an estimate, and its degrees of freedom."""

    variance: float
    df: float

    @property
    def t(self) -> float:
        """Quantile of Student's t for `LEVEL`."""
        return float(stats.t.ppf((1 + LEVEL) / 2, self.df))


def spread(residuals: np.ndarray, total: float, rows: Groups) -> Spread | None:
    """Return the variance of an estimate that changes by `residuals`[i] / `total` with row i; None for one cluster.

    For a mean, residuals are y - mean and `total` is their number, which makes it the ratio estimator of clusters of
    unequal sizes. With one seed it is the cluster-robust variance, G/(G - 1) times the sum of squared cluster totals.
    With several seeds it is V_prompts + V_seeds - V_both (Cameron, Gelbach and Miller, J. Bus. Econ. Stat. 2011, 29(2),
    238), at least the larger of the first two. V_both is that of the interaction, cluster totals per seed without their
    row and column means, as in a two-way analysis of variance: the raw totals per cell would take away 1/S of V_prompts
    for S seeds. Degrees of freedom are Satterthwaite's (Biometrics 1946, 2(6), 110).
    """
    n_clusters, n_seeds = rows.n_clusters, rows.n_seeds
    if n_clusters < 2:
        return None
    cells = np.zeros((n_clusters, n_seeds))
    np.add.at(cells, (rows.cluster, rows.seed), residuals)
    of_prompts, of_seeds = cells.sum(axis=1), cells.sum(axis=0)
    prompts = _scaled(of_prompts, total, n_clusters)
    if n_seeds == 1:
        return Spread(prompts, n_clusters - 1)
    seeds = _scaled(of_seeds, total, n_seeds)
    both = cells - of_prompts[:, None] / n_seeds - of_seeds / n_clusters + cells.sum() / cells.size
    interaction = cells.size / ((n_clusters - 1) * (n_seeds - 1)) * float((both**2).sum()) / total**2
    variance = max(prompts + seeds - interaction, prompts, seeds)
    parts = prompts**2 / (n_clusters - 1) + seeds**2 / (n_seeds - 1)
    return Spread(variance, max(1.0, variance**2 / parts) if parts else n_clusters - 1)


def _scaled(totals: np.ndarray, total: float, groups_: int) -> float:
    return groups_ / (groups_ - 1) * float((totals**2).sum()) / total**2


def clustered_wilson(outcomes: np.ndarray, rows: Groups) -> tuple[float, float]:
    """Return Wilson's interval of the share of 1 in `outcomes` (0 or 1, [N > 0]) with an effective number of rows.

    It is p (1 - p) / variance, times (z / t)² for the degrees of freedom, and at most N (Korn and Graubard, Surv.
    Methodol. 1998, 24(2), 193; Franco, Little, Louis and Slud, J. Surv. Stat. Methodol. 2019, 7(3), 334). If all
    outcomes are equal it is the number of clusters. Unequal outcomes of one cluster say nothing: from 0 to 1.
    """
    p, n = float(outcomes.mean()), len(outcomes)
    found = spread(outcomes - p, n, rows)
    if p in (0.0, 1.0):
        effective: float = rows.n_clusters
    elif found is None:
        return 0.0, 1.0
    else:
        effective = min(n, p * (1 - p) / found.variance * (_Z / found.t) ** 2) if found.variance else n
    return _wilson(p, effective)


def _wilson(p: float, n: float) -> tuple[float, float]:
    """Return Wilson's interval for a share of `n` rows, which need not be a whole number."""
    centre, half = p + _Z**2 / (2 * n), _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    low, high = ((centre + sign * half) / (1 + _Z**2 / n) for sign in (-1, 1))
    return (0.0 if p == 0 else max(0.0, low)), (1.0 if p == 1 else min(1.0, high))


def paired_p(differences: Sequence[int], clusters: Sequence[Hashable], seeds: Sequence[Hashable]) -> float:
    """Return the two-sided p-value of no difference between two sides, from each row's outcome minus the other's.

    One seed: the exact sign-flip test of the clusters' sums, which is McNemar's exact test if every row is its own
    cluster. Clusters are independent, and under the hypothesis each sum is as likely with the other sign. Several
    seeds: Student's t with the two-way variance of `spread`.
    """
    values = np.array(differences, dtype=float)
    rows = groups([True] * len(values), clusters, seeds)
    if rows.n_seeds > 1:
        found = spread(values - values.mean(), len(values), rows)
        if found is None or not found.variance:
            return 1.0 if not values.any() or found is None else 0.0
        return float(2 * stats.t.sf(abs(values.mean()) / math.sqrt(found.variance), found.df))
    sums = np.bincount(rows.cluster, weights=values) if len(values) else np.zeros(0)
    return sign_flip_p([round(total) for total in sums])


def sign_flip_p(sums: Sequence[int]) -> float:
    """Return the exact probability that random signs of `sums` give a total at least as far from 0 as theirs."""
    sizes = [abs(total) for total in sums if total]
    limit = sum(sizes)
    chances = np.zeros(2 * limit + 1)  # of the totals from -limit to limit
    chances[limit] = 1.0
    for size in sizes:
        chances = 0.5 * (np.roll(chances, size) + np.roll(chances, -size))
    far = np.abs(np.arange(-limit, limit + 1)) >= abs(sum(sums))
    return min(1.0, float(chances[far].sum()))
