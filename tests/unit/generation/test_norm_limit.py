"""The norm limit of an edit: the compiled loop on a CPU agrees with the formula."""

from __future__ import annotations

from math import inf

import pytest
import torch

from rebend.generation.norm_limit import MAX_RELATIVE_NORM, _clip_edit_on_gpu, clip_edit

D = 32


def states(rows: int = 5, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(seed))


def test_a_non_finite_edit_is_dropped_and_reported_as_clipped():
    before = states(3)
    after = before + 1.0
    after[1, 4] = torch.nan
    after[2, 0] = torch.inf
    result, norm, clipped = clip_edit(before, after)
    assert clipped.tolist() == [False, True, True]
    assert torch.equal(result[1:], before[1:])
    assert torch.equal(result[0], after[0])
    assert norm.tolist() == [pytest.approx(D**0.5), 0.0, 0.0]


def test_a_too_long_edit_is_shortened_and_reported_as_clipped():
    before = states(2)
    result, norm, clipped = clip_edit(before, before + torch.tensor([[0.01], [1e6]]))
    assert clipped.tolist() == [False, True]
    limit = MAX_RELATIVE_NORM * before[1].norm()
    torch.testing.assert_close((result[1] - before[1]).norm(), limit)
    torch.testing.assert_close(norm[1], limit)


def test_the_compiled_loop_agrees_with_the_formula_in_torch():
    before = states(6)
    after = before + torch.tensor([0.0, 0.01, 1.0, 1e3, 1e30, 1.0])[:, None]
    after[5, 2] = -torch.inf
    result, norm, clipped = clip_edit(before, after.clone())
    assert clipped.tolist() == [False, False, False, True, True, True]
    edit = after - before
    limit = MAX_RELATIVE_NORM * before.norm(dim=1)
    torch.testing.assert_close(norm[:4], torch.minimum(edit.norm(dim=1), limit)[:4])
    torch.testing.assert_close((result - before).norm(dim=1)[3:5], limit[3:5])
    assert torch.equal(result[:3], after[:3])
    assert torch.equal(result[5], before[5])
    assert norm[5] == 0


def test_without_a_limit_only_numbers_that_are_not_finite_are_clipped():
    before = states(4)
    before[1] = 0
    after = before + torch.tensor([1e3, 1e3, 1e30, torch.nan])[:, None]
    for clip in (clip_edit, _clip_edit_on_gpu):
        result, norm, clipped = clip(before, after.clone(), inf)
        assert clipped.tolist() == [False, False, False, True]
        assert torch.equal(result, torch.cat([after[:3], before[3:]]))
        torch.testing.assert_close(norm[:2], torch.full((2,), 1e3 * D**0.5))
