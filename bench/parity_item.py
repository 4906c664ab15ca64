"""Items of the parity page: one small function each, which returns a released value and ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from parity_code import Released
from torch import Tensor

EQUAL, DIFFERS, SKIPPED, FAILED = "equal", "differs", "skipped", "failed"
LONGEST = 60  # characters of a text on the page
FEW = 8  # so many numbers are compared each relative to itself


@dataclass(frozen=True)
class Sides:
    """What an item may read: the released repository of its paper, and the folder with real data."""

    released: Released
    data: Path


@dataclass(frozen=True)
class Item:
    """One line of the page."""

    paper: str  # "recontrol" or "repbend": whose released code it needs
    name: str
    compare: Callable[[Sides], tuple[Any, Any]]
    tolerance: float  # largest relative difference of numbers, or share of texts that differ
    remark: str  # why they differ; shown where they do


@dataclass(frozen=True)
class Line:
    """An item with the figures of a run."""

    item: Item
    released: str
    ours: str
    difference: str
    verdict: str


ITEMS: list[Item] = []


def item(
    paper: str, name: str, tolerance: float = 0.0, remark: str = ""
) -> Callable[[Callable[[Sides], tuple[Any, Any]]], Callable[[Sides], tuple[Any, Any]]]:
    """Add the decorated function to the items."""

    def add(compare: Callable[[Sides], tuple[Any, Any]]) -> Callable[[Sides], tuple[Any, Any]]:
        ITEMS.append(Item(paper, name, compare, tolerance, remark))
        return compare

    return add


def items(
    paper: str, cases: Iterable[Sequence[Any]], name: str, tolerance: float = 0.0, remark: str = ""
) -> Callable[[Callable[..., tuple[Any, Any]]], Callable[..., tuple[Any, Any]]]:
    """Add one item per case; `name` is filled with the case's values, and the function gets them after the sides."""

    def add(compare: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
        for case in cases:

            def one(sides: Sides, case: Sequence[Any] = case) -> tuple[Any, Any]:
                return compare(sides, *case)

            ITEMS.append(Item(paper, name.format(*case), one, tolerance, remark))
        return compare

    return add


def measure(entry: Item, sides: Sides | None, why_skipped: str = "") -> Line:
    """Run an item; without sides it is skipped for the reason given."""
    if sides is None:
        return Line(entry, "–", "–", why_skipped, SKIPPED)
    try:
        released, ours = entry.compare(sides)
    except FileNotFoundError as error:
        return Line(entry, "–", "–", str(error), SKIPPED)
    except Exception as error:  # one item that broke leaves the others
        return Line(entry, "–", "–", " ".join(f"{type(error).__name__}: {error}".split()), FAILED)
    if isinstance(released, list) and isinstance(released[0], (str, list, tuple)):
        return _texts(entry, released, ours)
    return _numbers(entry, _flat(released), _flat(ours))


def _texts(entry: Item, released: Sequence[Any], ours: Sequence[Any]) -> Line:
    """Compare texts, or sequences of token ids, one by one."""
    n, n_ours = len(released), len(ours)
    same = sum(one == other for one, other in zip(released, ours, strict=False))
    apart = max(n, n_ours) - same
    verdict = EQUAL if apart <= entry.tolerance * n else DIFFERS
    if n == n_ours == 1:
        return Line(entry, _code(released[0]), _code(ours[0]), f"{apart:,} of {n:,}", verdict)
    return Line(entry, f"{n:,} texts", f"{same:,} of {n:,} the same", f"{apart:,} of {n:,}", verdict)


def _code(text: Any) -> str:
    """Return a text, or its beginning and end, as code of one line."""
    shown = repr(text).replace("`", "'")
    return f"`{shown if len(shown) <= LONGEST else shown[: LONGEST // 2] + ' … ' + shown[-LONGEST // 2 :]}`"


def _numbers(entry: Item, released: Tensor, ours: Tensor) -> Line:
    """Compare a few numbers each relative to itself, many relative to the largest of the released side."""
    if released.shape != ours.shape:
        return Line(entry, _shown(released), _shown(ours), f"{len(released):,} and {len(ours):,} numbers", DIFFERS)
    scale = released.abs() if len(released) <= FEW else released.abs().max()
    apart = float(((released - ours).abs() / scale.clamp(min=1e-30)).max())
    return Line(entry, _shown(released), _shown(ours), f"{apart:.1e}", EQUAL if apart <= entry.tolerance else DIFFERS)


def _flat(value: Any) -> Tensor:
    parts = value if isinstance(value, (list, tuple)) else [value]
    return torch.cat([torch.as_tensor(part, dtype=torch.double).detach().flatten() for part in parts])


def _shown(numbers: Tensor) -> str:
    """One number as it is, several by their count and Euclidean length."""
    if len(numbers) == 1:
        return f"{float(numbers[0]):.6g}"
    return f"{len(numbers):,} numbers, length {float(numbers.norm()):.6g}"
