"""The random direction: as long as the ascent's edit, independent of other rows."""

from __future__ import annotations

import torch

from rebend.recontrol.methods.random_direction import RandomDirection
from rebend.recontrol.methods.value_ascent import ValueAscent
from tests.helpers.value_networks import network, states


def test_a_random_edit_is_as_long_as_the_ascents_edit_of_each_token():
    net, h, rows = network(3, 3.0), states(), torch.arange(5)
    value = ValueAscent(net, 0.1, 10).begin([0] * 5)(h, rows) - h
    random = RandomDirection(net, 0.1, 10).begin([0, 1, 2, 3, 4])(h, rows) - h
    torch.testing.assert_close(random.norm(dim=1), value.norm(dim=1), rtol=1e-4, atol=1e-5)
    cosines = torch.cosine_similarity(random, value, dim=1)
    assert cosines.abs().max() < 0.8


def test_random_directions_differ_by_token_and_do_not_depend_on_other_rows():
    control, h = RandomDirection(network(3, 3.0), 0.1, 10), states()
    together = control.begin([7, 8, 9, 10, 11])
    first = together(h, torch.arange(5))
    second = together(h[[1, 3]], torch.tensor([1, 3]))  # the other rows have ended
    alone = control.begin([8])
    torch.testing.assert_close(alone(h[1:2], torch.tensor([0])), first[1:2])
    torch.testing.assert_close(alone(h[1:2], torch.tensor([0])), second[:1])
    assert not torch.allclose(first[1:2], second[:1])  # the next token has another direction
