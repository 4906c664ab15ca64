"""Floating-point operations and peak memory of a RepBend step, for `bench/repbend.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

MIB = 2**20
LORA_R = 16


class Size(NamedTuple):
    """Shape of a Llama, its target layers, and the batch of its training."""

    vocabulary: int
    hidden: int
    between: int
    n_layers: int
    heads: int
    kv_heads: int
    first_target: int
    n_targets: int
    micro_batch: int  # B of one micro-step of the released trainer
    accumulation: int  # micro-steps of one optimiser step
    dtype: str


def grouped(rows: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the examples of the safe, unsafe and retain group."""
    safe, unsafe = ([pair[side] for pair in rows.pairs] for side in (0, 1))
    return [*rows.safe, *safe], [*rows.unsafe, *unsafe], rows.retain


def needed_flops(rows: Any, size: Size) -> float:
    """Return the floating-point operations of a step without padding: the same number for both sides.

    P weights in the linear modules of a block, A in its adapter, T tokens in a row, hidden size D, vocabulary V.
    Per token and block: 2P for the reference pass, 2P for the adapted pass, 2P for the gradient of the inputs (frozen
    weights have no gradient), and 6A for the adapter. Per row and block: 8 T^2 D for causal attention (2 T^2 D for each
    of two forward passes, 4 T^2 D backward). Per retain token: 6 D V for the head. Unsafe rows need the blocks up to
    the last target only. Recomputation (checkpointing) does not count.
    """
    d, head = size.hidden, size.hidden // size.heads
    shapes = [(d, d), (d, d), (d, size.kv_heads * head), (d, size.kv_heads * head), *[(d, size.between)] * 3]
    linear = sum(a * b for a, b in shapes)
    adapter = sum(LORA_R * (a + b) for a, b in shapes)
    last = size.first_target + size.n_targets - 1
    total = 0.0
    for group, blocks in zip(grouped(rows), (size.n_layers, last, size.n_layers), strict=True):
        for row in group:
            n = len(row.tokens)
            total += blocks * (6 * linear * n + 8 * n * n * d) + min(blocks, last + 1) * 6 * adapter * n
    return total + sum(6 * d * size.vocabulary * len(row.tokens) for row in rows.retain)


class Memory:
    """Peak memory since the object was made: resident memory, or on a GPU the memory allocated by torch."""

    def __init__(self, device: str) -> None:
        import torch

        self.cuda = torch.cuda if device == "cuda" else None
        if self.cuda:
            self.cuda.reset_peak_memory_stats()
            self.baseline = self.cuda.memory_allocated() / MIB
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # reset the peak of loading
            self.baseline = self._status("VmRSS")

    def peak_mib(self) -> float:
        """Return the peak above the baseline, MiB."""
        return (self.cuda.max_memory_allocated() / MIB if self.cuda else self._status("VmHWM")) - self.baseline

    def _status(self, key: str) -> float:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024
