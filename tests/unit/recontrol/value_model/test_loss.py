"""The objective of a value network equals the paper's, or the released code's, computed by hand."""

from __future__ import annotations

import pytest
import torch

from rebend.config.value_models import ValueModelBlock
from rebend.recontrol.value_model.loss import packed, returns, summed_loss
from rebend.recontrol.value_model.train import objective
from tests.helpers.value_model_parts import RELEASED, SETTINGS, D, batch, gradients, network


def papers_loss(net, responses, *, through_target: bool = False) -> torch.Tensor:
    """Return the paper's objective, computed in loops over responses and tokens."""
    total = torch.zeros((), dtype=torch.float64)
    for states, reward in responses:
        values = net(states)
        for t in range(len(states) - 1):
            target = values[t + 1] if through_target else values[t + 1].detach()
            total = total + (values[t] - target) ** 2
        total = total + (values[-1] - reward) ** 2
    return total / len(responses)


def released_loss(net, responses) -> torch.Tensor:
    """Return the released code's objective, with padding, a mask and the argmax of the mask as in that code."""
    longest = max(len(states) for states, _ in responses)
    states = torch.zeros(len(responses), longest, D, dtype=torch.float64)
    mask = torch.zeros(len(responses), longest, dtype=torch.float64)
    for i, (response, _) in enumerate(responses):
        states[i, : len(response)], mask[i, : len(response)] = response, 1
    rewards = torch.tensor([reward for _, reward in responses], dtype=torch.float64)
    values = net(states)
    between = ((values[:, :-1] - values[:, 1:]) * mask[:, :-1] * mask[:, 1:]) ** 2
    at_reward = values.gather(1, mask.argmax(1)[:, None]).squeeze(1)
    return (between.sum() + ((at_reward - rewards) ** 2).sum()) / len(responses)


@pytest.mark.parametrize("n_layers", [2, 3])
def test_corrected_equals_the_papers_objective_in_value_and_gradient(n_layers):
    net, rows = network(n_layers), batch()
    ours, theirs = objective(net, rows, SETTINGS), papers_loss(net, rows)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    torch.testing.assert_close(gradients(net, ours), gradients(net, theirs), rtol=1e-12, atol=1e-14)
    assert not torch.allclose(
        gradients(net, objective(net, rows, SETTINGS)), gradients(net, papers_loss(net, rows, through_target=True))
    )


@pytest.mark.parametrize("n_layers", [2, 3])
def test_released_code_equals_the_released_objective_in_value_and_gradient(n_layers):
    net, rows = network(n_layers), batch()
    ours, theirs = objective(net, rows, RELEASED), released_loss(net, rows)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    torch.testing.assert_close(gradients(net, ours), gradients(net, theirs), rtol=1e-12, atol=1e-14)
    assert not torch.isclose(ours, objective(net, rows, SETTINGS))


def test_corrected_puts_the_reward_at_the_last_token_and_released_code_at_the_first():
    lengths, rewards = torch.tensor([3, 1, 2]), torch.tensor([10.0, 20.0, 30.0])
    assert returns(torch.arange(6.0), lengths, rewards, 0.0).tolist() == [1.0, 2.0, 10.0, 20.0, 5.0, 30.0]
    zeros = torch.zeros(6)
    assert float(summed_loss(zeros, lengths, rewards, SETTINGS)) == 100 + 400 + 900
    first = torch.tensor([10.0, 0, 0, 20, 30, 0])
    assert float(summed_loss(first, lengths, rewards, RELEASED)) == 100 + 900  # only the differences of neighbours
    assert float(summed_loss(first, lengths, rewards, SETTINGS)) == 100 + 100 + 900 + 900


def test_returns_equal_the_reward_for_lambda_one_and_lie_between_for_smaller_lambdas():
    lengths, rewards = torch.tensor([3, 1]), torch.tensor([10.0, 20.0])
    values = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert returns(values, lengths, rewards, 1.0).tolist() == [10.0, 10.0, 10.0, 20.0]
    second = 0.5 * 2.0 + 0.5 * 10.0
    assert returns(values, lengths, rewards, 0.5).tolist() == [0.5 * 1.0 + 0.5 * second, second, 10.0, 20.0]
    nearly = returns(values, lengths, rewards, 1e-12)  # computed by the loop
    torch.testing.assert_close(nearly, returns(values, lengths, rewards, 0.0))


def test_released_code_refuses_a_td_lambda():
    with pytest.raises(ValueError, match="no λ-returns"):
        ValueModelBlock(activations="a", reward="r", variant="released_code", td_lambda=0.5)


def test_packed_converts_states_and_rewards_to_the_networks_type():
    states, lengths, rewards = packed(batch(dtype=torch.float16), network().float())
    assert states.dtype == rewards.dtype == torch.float32
    assert lengths.tolist() == [3, 1, 4]
