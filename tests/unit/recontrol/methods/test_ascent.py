"""The ascent gives the result of the released loop (`bench/reference/control.py`: autograd and SGD at each step)."""

from __future__ import annotations

import pytest
import torch
from bench.reference.control import released_ascent

from rebend.recontrol.methods import ascent
from rebend.recontrol.methods.ascent import AscentCache, ascend, dense_ascent
from rebend.recontrol.value_model.network import Shape, ValueNetwork, new_network

D = 24
ALPHAS = (0.0, 1e-4, 0.01, 0.1, 1.0, 100.0)


def network(n_layers: int, width: int = 75, dtype: torch.dtype = torch.float64, seed: int = 0) -> ValueNetwork:
    """Return a network with doubled weights, so that units flip."""
    net = new_network(Shape(D, width, n_layers), seed).requires_grad_(False).to(dtype)
    for weight in net.parameters():
        weight.mul_(2.0)
    return net


def states(rows: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def relative(result: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return (result - truth).norm(dim=1) / truth.norm(dim=1)


@pytest.fixture(params=["narrow", "wide"])
def width(request, monkeypatch) -> int:
    """Run a test with the code for narrow networks, and with the code for wide networks on the same narrow network."""
    if request.param == "wide":
        monkeypatch.setattr(ascent, "WIDE", 1)
        monkeypatch.setattr(ascent, "WIDEST", 1)
        monkeypatch.setattr(ascent, "FEW", 0)
    return 75


@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("n_layers", [2, 3])
def test_the_result_equals_autograds_at_every_step_size(n_layers, rows, width):
    net, h = network(n_layers, width), states(rows)
    flips = 0
    for alpha in ALPHAS:
        for n in (1, 2, 30):
            truth = released_ascent(net, h, alpha, n)
            assert relative(ascend(net, h, alpha, n), truth).max() < 1e-10
            flips += int(((net.first(h) > 0) != (net.first(truth) > 0)).sum())
    assert flips > 50 * rows


@pytest.mark.parametrize("n_layers", [2, 3])
def test_many_steps_differ_by_rounding_only(n_layers, width):
    net, h = network(n_layers, width), states(4)
    for alpha in (0.003, 0.3):
        assert relative(ascend(net, h, alpha, 1500), released_ascent(net, h, alpha, 1500)).max() < 1e-9


@pytest.mark.parametrize("n_layers", [2, 3])
def test_single_precision_is_within_two_millionths_and_closer_than_the_plain_loop(n_layers, width):
    net, h = network(n_layers, width, torch.float32), states(64, torch.float32)
    truth = released_ascent(network(n_layers, width), h.double(), 0.02, 30)
    our_error, plain = (
        relative(ascend(net, h, 0.02, 30).double(), truth),
        relative(released_ascent(net, h, 0.02, 30).double(), truth),
    )
    # A unit that ends a step within rounding of its kink may flip in one precision and not in the other.
    assert our_error.sort().values[:60].max() < 2e-6
    assert our_error.median() <= plain.median()


@pytest.mark.parametrize("n_layers", [2, 3])
def test_a_row_does_not_depend_on_the_others(n_layers, width):
    net, h = network(n_layers, width), states(20)
    together = ascend(net, h, 0.3, 30)
    for row in (0, 7, 19):
        torch.testing.assert_close(ascend(net, h[row : row + 1], 0.3, 30)[0], together[row], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_layers", [2, 3])
def test_units_exactly_at_their_kink_add_no_gradient(n_layers):
    net = network(n_layers)
    net.first.bias.zero_()
    at_rest = torch.zeros(2, D, dtype=torch.float64)
    assert torch.equal(ascend(net, at_rest, 0.5, 30), released_ascent(net, at_rest, 0.5, 30))


def test_no_steps_step_size_zero_and_no_rows_change_nothing():
    net, h = network(3), states(3)
    assert torch.equal(ascend(net, h, 0.5, 0), h)
    assert torch.equal(ascend(net, h, 0.0, 30), h)
    assert ascend(net, h[:0], 0.5, 30).shape == (0, D)


def test_the_input_states_are_not_changed(width):
    for n_layers in (2, 3):
        net, h = network(n_layers, width), states(3)
        before = h.clone()
        ascend(net, h, 0.5, 30)
        assert torch.equal(h, before)


def test_a_view_with_gaps_in_memory_gives_the_same_result():
    net, h = network(2), states(6)
    stacked = torch.stack([h, -h], dim=1)
    assert torch.equal(ascend(net, stacked[:, 0], 0.3, 10), ascend(net, h, 0.3, 10))


@pytest.mark.parametrize("n_layers", [2, 3])
def test_dense_products_give_the_same_result(n_layers):
    net, h = network(n_layers), states(5)
    cache = AscentCache(net)
    total = dense_ascent(cache, net.first(h), 0.3, 30)
    torch.testing.assert_close(h + 0.3 * total @ net.first.weight, ascend(net, h, 0.3, 30, cache))


def test_the_same_call_gives_the_same_bytes(width):
    for n_layers in (2, 3):
        net, h = network(n_layers, width, torch.float32), states(9, torch.float32)
        assert torch.equal(ascend(net, h, 0.3, 30), ascend(net, h, 0.3, 30))


@pytest.mark.parametrize("n_layers", [2, 3])
def test_non_finite_rows_change_no_other_row(n_layers, width):
    net, h = network(n_layers, width), states(4)
    plain = ascend(net, h, 0.3, 30)
    h[1, 3], h[2, 0] = torch.nan, torch.inf
    result = ascend(net, h, 0.3, 30)
    assert not torch.isfinite(result[1]).all()
    assert not torch.isfinite(result[2]).all()
    torch.testing.assert_close(result[[0, 3]], plain[[0, 3]], rtol=1e-12, atol=1e-12)
    net.last.weight.fill_(torch.nan)
    assert torch.isnan(ascend(net, h, 0.3, 30)).any(dim=1).all()


@pytest.mark.gpu
@pytest.mark.parametrize("n_layers", [2, 3])
def test_a_gpu_gives_the_same_result(n_layers):
    net, h = network(n_layers), states(20)
    truth = released_ascent(net, h, 0.3, 30)
    on_gpu = net.cuda()
    cache = AscentCache(on_gpu)
    for rows in (20, 20, 3):  # the second call replays the first one's recording
        assert relative(ascend(on_gpu, h[:rows].cuda(), 0.3, 30, cache).cpu(), truth[:rows]).max() < 1e-10
