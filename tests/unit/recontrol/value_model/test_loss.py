"""The objective of a value network equals the paper's, or the released code's, computed by hand."""

from __future__ import annotations

import pytest
import torch

from rebend.config.value_models import ValueModelBlock
from rebend.recontrol.value_model.loss import Labelled, masked, packed, returns, summed_loss, values_read
from rebend.recontrol.value_model.train import objective
from tests.helpers.value_model_parts import RELEASED, SETTINGS, D, batch, gradients, network


def papers_loss(net, responses, *, through_target: bool = False) -> torch.Tensor:
    """Return the paper's objective, computed in loops over responses and tokens."""
    total = torch.zeros((), dtype=torch.float64)
    for states, reward, _ in responses:
        values = net(states)
        for t in range(len(states) - 1):
            target = values[t + 1] if through_target else values[t + 1].detach()
            total = total + (values[t] - target) ** 2
        total = total + (values[-1] - reward) ** 2
    return total / len(responses)


def released_loss(net, responses) -> torch.Tensor:
    """Return the released code's objective, with padding, a mask and the argmax of the mask as in that code."""
    longest = max(len(row.states) for row in responses)
    states = torch.zeros(len(responses), longest, D, dtype=torch.float64)
    mask = torch.zeros(len(responses), longest, dtype=torch.float64)
    for i, (response, _, _) in enumerate(responses):
        states[i, : len(response)], mask[i, : len(response)] = response, 1
    rewards = torch.tensor([row.reward for row in responses], dtype=torch.float64)
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


def test_each_mask_reads_the_end_tokens_state_as_its_released_code_does():
    """Values 1, 2, 3 at two tokens and the end token; 4 at an empty response; 5, 6 at one that did not end."""
    net = network()

    class Identity(torch.nn.Module):
        first = net.first

        def forward(self, states):
            return states[:, 0]

    rows = [([1.0, 2.0, 3.0], 10.0, True), ([4.0], 20.0, True), ([5.0, 6.0], 30.0, False)]
    batch = [Labelled(torch.tensor(values).double()[:, None].expand(-1, D), *rest) for values, *rest in rows]
    vicuna = RELEASED.model_copy(update={"end_state": "kept"})
    expected = {
        "corrected": (1 + 1 + 7**2) + 16**2 + (1 + 24**2),  # V(next), the reward at the state of the end token
        "llama": (1 + 9**2) + 16**2 + (1 + 25**2),  # two neighbours, the reward at the first state
        "vicuna": (1 + 1 + 9**2) + 16**2 + (1 + 25**2),
    }
    for name, settings in (("corrected", SETTINGS), ("llama", RELEASED), ("vicuna", vicuna)):
        assert float(objective(Identity(), batch, settings)) == pytest.approx(expected[name] / 3, rel=1e-12)
        states, lengths, _ = packed(batch, net)
        values, read = values_read(states[:, 0], lengths, batch, settings)
        kept = packed(masked(batch, settings), net)
        assert values.tolist() == kept[0][:, 0].tolist() and read.tolist() == kept[1].tolist()


def test_the_defaults_of_a_variant():
    released = ValueModelBlock(activations="a", reward="r", variant="released_code")
    assert (released.end_state, released.validation_share) == ("left_out", 0.0)
    assert (SETTINGS.end_state, ValueModelBlock(activations="a", reward="r").validation_share) == ("kept", 0.1)
    with pytest.raises(ValueError, match="`validation_share: 0` holds out no prompt"):
        ValueModelBlock(activations="a", reward="r", validation_share=0.0)
