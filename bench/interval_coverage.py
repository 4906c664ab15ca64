"""Print the coverage of 95 % intervals of clustered rows and of several training seeds, by simulation.

`python bench/interval_coverage.py` (about six minutes on one core) prints the tables of docs/statistics.md.
"""

from __future__ import annotations

import numpy as np

from rebend.evaluation.clustered import clustered_wilson, groups
from rebend.evaluation.intervals import mean, rate, wilson

RUNS = 10_000
SHARES = (0.1, 0.3, 0.5)
ROWS = 5  # of a cluster


def clustered_shares(rng: np.random.Generator, clusters: int, p: float, icc: float, runs: int) -> np.ndarray:
    """Return the chance of each cluster of a beta distribution with mean p and intra-cluster correlation `icc`."""
    if not icc:
        return np.full((runs, clusters), p)
    scale = (1 - icc) / icc
    return rng.beta(p * scale, (1 - p) * scale, (runs, clusters))


def rates(clusters: int, icc: float) -> tuple[list[float], list[float]]:
    """Return the coverage for each share of `SHARES` of the clustered interval, and of Wilson's over rows."""
    rng, keys = np.random.default_rng(clusters), np.repeat(np.arange(clusters), ROWS)
    found: tuple[list[float], list[float]] = ([], [])
    rows = groups([True] * len(keys), list(keys))
    for p in SHARES:
        hits = rng.binomial(ROWS, clustered_shares(rng, clusters, p, icc, RUNS))
        within = []
        for one in hits:
            ends = [clustered_wilson((np.arange(ROWS) < one[:, None]).ravel().astype(float), rows)]
            ends.append(wilson(int(one.sum()), len(keys)))
            within.append([low <= p <= high for low, high in ends])
        for kind, share in zip(found, np.mean(within, axis=0), strict=True):
            kind.append(float(share))
    return found


def means(clusters: int, icc: float, runs: int = 1000) -> float:
    """Return the coverage of the bootstrap of clusters for values of variance 1, with skewed clusters."""
    rng, keys, covered = np.random.default_rng(clusters), list(np.repeat(np.arange(clusters), ROWS)), 0
    for _ in range(runs):
        shared = np.repeat(rng.exponential(1, clusters) - 1, ROWS)
        values = icc**0.5 * shared + (1 - icc) ** 0.5 * rng.normal(0, 1, len(keys))
        found = mean([float(value) for value in values], keys)
        covered += found.ci_low is not None and found.ci_high is not None and found.ci_low <= 0 <= found.ci_high
    return covered / runs


def over_seeds(prompts: int, seeds: int, spread: float, runs: int = 1000) -> float:
    """Return the coverage of a rate over trainings whose log-odds differ by a normal of deviation `spread`."""
    rng = np.random.default_rng(seeds)
    keys = list(range(prompts)) * seeds, [s for s in range(seeds) for _ in range(prompts)]
    draws = rng.normal(-1, (1 + spread**2 + 0.25) ** 0.5, 1_000_000)
    truth, covered = float((1 / (1 + np.exp(-draws))).mean()), 0
    for _ in range(runs):
        odds = -1 + rng.normal(0, 1, prompts) + rng.normal(0, spread, (seeds, 1)) + rng.normal(0, 0.5, (seeds, prompts))
        hits = (rng.random((seeds, prompts)) < 1 / (1 + np.exp(-odds))).ravel()
        found = rate([bool(hit) for hit in hits], *keys)
        covered += found.ci_low is not None and found.ci_high is not None and found.ci_low <= truth <= found.ci_high
    return covered / runs


def main() -> None:
    """Print the tables."""
    print(
        "| clusters of 5 | correlation | rates 0.1, 0.3, 0.5 | the same by Wilson over rows | means |\n"
        + "|---" * 5
        + "|"
    )
    for clusters in (10, 20, 30, 60, 240):
        for icc in (0.0, 0.2, 0.5):
            ours, over_rows = (", ".join(f"{share:.3f}" for share in kind) for kind in rates(clusters, icc))
            print(f"| {clusters} | {icc:g} | {ours} | {over_rows} | {means(clusters, icc):.3f} |", flush=True)
    print("\n| seeds | no difference of trainings | some (0.5) | large (1) |\n" + "|---" * 4 + "|")
    for seeds in (2, 3, 5):
        shares = [f"{over_seeds(80, seeds, spread):.3f}" for spread in (0.0, 0.5, 1.0)]
        print(f"| {seeds} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
