"""Batches of texts of similar length, which need little padding."""

from __future__ import annotations

from collections.abc import Sequence


def batches_by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Return indices in batches of `size`, longest first: a batch that does not fit in memory fails at the start.

    Equal lengths keep their order, so the batches depend on the lengths only.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[start : start + size] for start in range(0, len(order), size)]
