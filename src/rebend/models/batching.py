"""Batches of texts of similar length, which need little padding."""

from __future__ import annotations

from collections.abc import Sequence

PASS_COST = 256  # a pass through a model takes this many positions' time (a CPU a tenth of it, a GPU more) on top


def batches_by_length(
    lengths: Sequence[int], size: int, most: int | None = None, cost: float = PASS_COST
) -> list[list[int]]:
    """Return indices in batches of at most `size`, longest first: a batch that lacks memory fails at the start.

    A batch has at most `most` positions, padding included (None: no limit; a longer text is a batch by itself), and is
    cut further where that saves more than `cost` positions of padding a cut. Equal lengths keep their order, so the
    batches depend on the lengths only.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches, start = [], 0
    while start < len(order):
        rows = size if most is None else min(size, max(1, most // max(1, lengths[order[start]])))
        batch = order[start : start + rows]
        batches += [batch[i:j] for i, j in cuts([lengths[i] for i in batch], cost)]
        start += rows
    return batches


def cuts(lengths: Sequence[int], cost: float = PASS_COST) -> list[tuple[int, int]]:
    """Return the (start, end) of the parts of texts, longest first, with the least padding plus `cost` for each part.

    Positions are the number of texts of a part times its longest. Of equal sums the one with the longest last part.
    """
    if not lengths:
        return []
    if len(lengths) * lengths[0] - sum(lengths) <= cost:
        return [(0, len(lengths))]
    least, begins = [0.0], [0]  # of the first j texts: the least sum, and where its last part begins
    for end in range(1, len(lengths) + 1):
        sums = [least[i] + cost + (end - i) * lengths[i] for i in range(end)]
        begins.append(min(range(end), key=sums.__getitem__))
        least.append(sums[begins[-1]])
    parts, end = [], len(lengths)
    while end:
        parts.append((begins[end], end))
        end = begins[end]
    return parts[::-1]
