"""The climb against the released way, `bench/reference/control.py`: autograd and SGD, one step after the other."""

from __future__ import annotations

import pytest
import torch
from bench.reference.control import climbed

from rebend.recontrol.methods import value_ascent
from rebend.recontrol.methods.controls import LONGEST_MOVE, bounded
from rebend.recontrol.methods.value_ascent import Slopes, climb, climbed_densely
from rebend.recontrol.value_model.network import Shape, ValueNetwork, new_network

D = 24
ALPHAS = (0.0, 1e-4, 0.01, 0.1, 1.0, 100.0)


def network(n_layers: int, width: int = 75, dtype: torch.dtype = torch.float64, seed: int = 0) -> ValueNetwork:
    """A network with larger weights than a new one has, so that units flip."""
    made = new_network(Shape(D, width, n_layers), seed).requires_grad_(False).to(dtype)
    for weight in made.parameters():
        weight.mul_(2.0)
    return made


def states(rows: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def relative(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return (found - truth).norm(dim=1) / truth.norm(dim=1)


@pytest.fixture(params=["narrow", "wide"])
def width(request, monkeypatch) -> int:
    """Both ways to divide the work; the wide one is for widths that a test need not have."""
    if request.param == "wide":
        monkeypatch.setattr(value_ascent, "WIDE", 1)
        monkeypatch.setattr(value_ascent, "WIDEST", 1)
        monkeypatch.setattr(value_ascent, "FEW", 0)
    return 75


@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("n_layers", [2, 3])
def test_the_trajectory_is_autograds_at_every_scale_of_the_step(n_layers, rows, width):
    net, h = network(n_layers, width), states(rows)
    flips = 0
    for alpha in ALPHAS:
        for n in (1, 2, 30):
            truth = climbed(net, h, alpha, n)
            assert relative(climb(net, h, alpha, n), truth).max() < 1e-10
            flips += int(((net.first(h) > 0) != (net.first(truth) > 0)).sum())
    assert flips > 50 * rows


@pytest.mark.parametrize("n_layers", [2, 3])
def test_many_steps_drift_no_further_than_rounding(n_layers, width):
    net, h = network(n_layers, width), states(4)
    for alpha in (0.003, 0.3):
        assert relative(climb(net, h, alpha, 1500), climbed(net, h, alpha, 1500)).max() < 1e-9


@pytest.mark.parametrize("n_layers", [2, 3])
def test_single_precision_stays_within_two_millionths_and_nearer_to_the_truth_than_the_plain_loop(n_layers, width):
    net, h = network(n_layers, width, torch.float32), states(64, torch.float32)
    truth = climbed(network(n_layers, width), h.double(), 0.02, 30)
    ours, plain = relative(climb(net, h, 0.02, 30).double(), truth), relative(climbed(net, h, 0.02, 30).double(), truth)
    # A row whose unit ends a step within rounding of its kink may turn there in one precision and not in the other.
    assert ours.sort().values[:60].max() < 2e-6
    assert ours.median() <= plain.median()


@pytest.mark.parametrize("n_layers", [2, 3])
def test_a_row_does_not_depend_on_the_others(n_layers, width):
    net, h = network(n_layers, width), states(20)
    together = climb(net, h, 0.3, 30)
    for row in (0, 7, 19):
        torch.testing.assert_close(climb(net, h[row : row + 1], 0.3, 30)[0], together[row], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_layers", [2, 3])
def test_units_exactly_at_their_kink_do_not_push(n_layers):
    net = network(n_layers)
    net.first.bias.zero_()
    at_rest = torch.zeros(2, D, dtype=torch.float64)
    assert torch.equal(climb(net, at_rest, 0.5, 30), climbed(net, at_rest, 0.5, 30))


def test_no_step_no_length_and_no_rows_change_nothing():
    net, h = network(3), states(3)
    assert torch.equal(climb(net, h, 0.5, 0), h)
    assert torch.equal(climb(net, h, 0.0, 30), h)
    assert climb(net, h[:0], 0.5, 30).shape == (0, D)


def test_the_states_that_are_given_are_left_as_they_are(width):
    for n_layers in (2, 3):
        net, h = network(n_layers, width), states(3)
        kept = h.clone()
        climb(net, h, 0.5, 30)
        assert torch.equal(h, kept)


def test_states_that_are_slices_of_a_larger_tensor_climb_alike():
    net, h = network(2), states(6)
    wide = torch.stack([h, -h], dim=1)  # a view of the newest position has gaps
    assert torch.equal(climb(net, wide[:, 0], 0.3, 10), climb(net, h, 0.3, 10))


@pytest.mark.parametrize("n_layers", [2, 3])
def test_whole_products_walk_the_same_way(n_layers):
    net, h = network(n_layers), states(5)
    slopes = Slopes(net)
    total = climbed_densely(slopes, net.first(h), 0.3, 30)
    torch.testing.assert_close(h + 0.3 * total @ net.first.weight, climb(net, h, 0.3, 30, slopes))


def test_the_same_call_gives_the_same_bytes(width):
    for n_layers in (2, 3):
        net, h = network(n_layers, width, torch.float32), states(9, torch.float32)
        assert torch.equal(climb(net, h, 0.3, 30), climb(net, h, 0.3, 30))


@pytest.mark.parametrize("n_layers", [2, 3])
def test_what_is_not_finite_ends_and_spoils_no_other_row(n_layers, width):
    net, h = network(n_layers, width), states(4)
    plain = climb(net, h, 0.3, 30)
    h[1, 3], h[2, 0] = torch.nan, torch.inf
    found = climb(net, h, 0.3, 30)
    assert not torch.isfinite(found[1]).all()
    assert not torch.isfinite(found[2]).all()
    torch.testing.assert_close(found[[0, 3]], plain[[0, 3]], rtol=1e-12, atol=1e-12)
    net.last.weight.fill_(torch.nan)
    assert torch.isnan(climb(net, h, 0.3, 30)).any(dim=1).all()


def test_the_cpus_bound_is_the_one_written_in_torch():
    before = states(6, torch.float32)
    after = before + torch.tensor([0.0, 0.01, 1.0, 1e3, 1e30, 1.0])[:, None]
    after[5, 2] = -torch.inf
    found, moved, held = bounded(before, after.clone())
    assert held.tolist() == [False, False, False, True, True, True]
    move = after - before
    limit = LONGEST_MOVE * before.norm(dim=1)
    torch.testing.assert_close(moved[:4], torch.minimum(move.norm(dim=1), limit)[:4])
    torch.testing.assert_close((found - before).norm(dim=1)[3:5], limit[3:5])
    assert torch.equal(found[:3], after[:3])
    assert torch.equal(found[5], before[5])
    assert moved[5] == 0


@pytest.mark.gpu
@pytest.mark.parametrize("n_layers", [2, 3])
def test_a_gpu_walks_the_same_way(n_layers):
    net, h = network(n_layers), states(20)
    truth = climbed(net, h, 0.3, 30)
    on_gpu = net.cuda()
    slopes = Slopes(on_gpu)
    for rows in (20, 20, 3):  # the second call replays what the first has recorded
        assert relative(climb(on_gpu, h[:rows].cuda(), 0.3, 30, slopes).cpu(), truth[:rows]).max() < 1e-10
