"""Limit the norm of an edit of a hidden state; on a CPU in one compiled loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch

Array = np.ndarray[Any, Any]

MAX_RELATIVE_NORM = 10.0  # ‖edit‖ / ‖state‖; text breaks at far smaller edits


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, compiled by numba at its first call.

    The machine code is cached on disk if numba finds a writable folder for it.
    """
    try:
        return numba.njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:  # neither the source folder nor the user's cache folder is writable
        return numba.njit(function, nogil=True, error_model="numpy")


def clip_edit(
    before: torch.Tensor, after: torch.Tensor, limit_ratio: float = MAX_RELATIVE_NORM
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the edited states [B, D] within the limit, the norm of each edit [B], and which rows were clipped [B].

    A row with a non-finite number returns to its state before the edit. An edit longer than `limit_ratio` times the
    state's norm is shortened to that length; infinity is no limit. Both count as clipped.
    """
    if before.device.type == "cpu":
        after = after.clone() if after.data_ptr() == before.data_ptr() else after
        norm, clipped = np.empty(len(before), np.float32), np.empty(len(before), np.bool_)
        clip_rows(before.contiguous().numpy(), after.numpy(), norm, clipped, limit_ratio)
        return after, torch.from_numpy(norm), torch.from_numpy(clipped)
    return _clip_edit_on_gpu(before, after, limit_ratio)


def _clip_edit_on_gpu(
    before: torch.Tensor, after: torch.Tensor, limit_ratio: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    finite = torch.isfinite(after).all(dim=1)
    edit = torch.where(finite[:, None], after - before, 0.0)
    norm = edit.norm(dim=1)
    limit = (limit_ratio * before.norm(dim=1)).nan_to_num(torch.inf, torch.inf)  # infinity times 0 is NaN
    clipped = ~finite | (norm > limit)
    scale = torch.where(norm > limit, limit / norm.clamp_min(1e-30), 1.0)
    after = torch.where(clipped[:, None], before + edit * scale[:, None], after)
    return after, norm * scale, clipped


@compiled
def clip_rows(before: Array, after: Array, norm: Array, clipped: Array, limit_ratio: float) -> None:
    """Clip each row of `after` [B, D] in place, as `clip_edit` describes.

    Writes the final norm of each edit to `norm` [B] and the clipped rows to `clipped` [B].
    """
    for row in range(before.shape[0]):
        start, end = before[row], after[row]
        edit_norm = state_norm = 0.0
        for i in range(start.shape[0]):
            change = np.float64(end[i]) - np.float64(start[i])
            edit_norm += change * change
            state_norm += np.float64(start[i]) * np.float64(start[i])
        edit_norm, limit = np.sqrt(edit_norm), limit_ratio * np.sqrt(state_norm)
        finite = np.isfinite(edit_norm)
        clipped[row] = not finite or edit_norm > limit  # infinity times 0 is NaN: no limit
        if clipped[row]:
            for i in range(start.shape[0]):
                end[i] = start[i] + (end[i] - start[i]) * (limit / edit_norm) if finite else start[i]
            edit_norm = limit if finite else 0.0
        norm[row] = edit_norm
