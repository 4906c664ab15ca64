"""The strength of a control: the grid, the two objectives, and resuming after a kill."""

from __future__ import annotations

import pytest

from rebend.config.controls import CdPrefixBlock, Choice, ValueControlBlock
from rebend.config.decoding import Decoding
from rebend.errors import DataError
from rebend.io.chunks import ChunkStore
from rebend.recontrol import choose_strength as strengths_module
from rebend.recontrol.choose_strength import choose_strength, pick, strengths_of
from rebend.recontrol.decode import control_block, decode_under
from rebend.recontrol.resources import ControlResources
from rebend.recontrol.value_model.network import Shape, new_network
from tests.helpers.small_policy import make_policy, prompt_rows

BLOCK = ValueControlBlock(
    method="value",
    value_model="v",
    step_size="chosen",
    n_steps=5,
    choice=Choice(dataset="d", grid=[0.5, 0.1, 2.0], reward="r", encoder="e", min_diversity=0.0),
    decoding=Decoding(max_new_tokens=10, batch_size=4),
)


class Lengths:
    """A reward model whose reward is the number of characters."""

    def __init__(self) -> None:
        self.calls = 0

    def score(self, messages, responses):
        self.calls += 1
        return [float(len(response)) for response in responses]


def line(step_size, reward, diversity=0.8, coherence=0.5, n_steps=5):
    """Return a line of the table of strengths."""
    strength = {"step_size": step_size, "n_steps": n_steps, "reward": reward}
    return {**strength, "diversity": diversity, "coherence": coherence}


def choice_of(**changes):
    return Choice(**{"dataset": "d", "grid": [0.1], "reward": "r", "encoder": "e", "min_diversity": 0.9, **changes})


def picked(table, **changes):
    """Return the chosen step size and the reason."""
    chosen, reason = pick(table, choice_of(**changes))
    return chosen["step_size"], reason


def ones(prompts, responses):
    return [1.0] * len(responses)


@pytest.fixture(scope="module")
def policy_and_network():
    policy = make_policy()
    network = new_network(Shape(policy.hidden_size, 24, 3), 0).requires_grad_(False)
    for weight in network.parameters():
        weight.mul_(3.0)
    return policy, network


def resources_of(policy, network):
    return ControlResources(policy, loaded={"value_model": network})


def choose(policy_and_network, reward, parts=None, rows=None, block=BLOCK):
    policy, network = policy_and_network
    return choose_strength(
        policy, rows or prompt_rows(), block, resources_of(policy, network), reward, ones, parts or ChunkStore(None)
    )


def test_the_highest_reward_wins():
    assert picked([line(0.0, 1.0), line(0.1, 1.5), line(0.5, 2.0), line(1.0, 1.9)])[0] == 0.5


def test_a_strength_that_lowers_diversity_or_coherence_is_not_chosen_for_its_reward():
    table = [line(0.0, 1.0), line(0.1, 1.5), line(0.5, 2.0, diversity=0.7), line(1.0, 3.0, coherence=0.4)]
    chosen, reason = picked(table)
    assert chosen == 0.1
    assert "among the 1 of 3" in reason


def test_a_step_size_without_a_reward_is_never_chosen():
    assert picked([line(0.0, 1.0), line(0.1, None), line(0.5, 1.5)])[0] == 0.5


def test_no_control_is_chosen_if_no_strength_keeps_diversity_and_coherence():
    chosen, reason = picked([line(0.0, 1.0), line(0.1, 5.0, diversity=0.1)])
    assert chosen == 0.0
    assert "none of 1" in reason


def test_no_control_is_chosen_if_no_strength_raises_the_reward():
    chosen, reason = picked([line(0.0, -0.390), line(0.1, -0.394), line(0.3, -0.399), line(1.0, 2.0, coherence=0.1)])
    assert chosen == 0.0
    assert "of the 2 of 3 strengths that keep" in reason and "(-0.394, uncontrolled -0.390): no control" in reason
    assert picked([line(0.0, 1.0), line(0.1, 1.0)])[0] == 0.0
    assert picked([line(0.0, None), line(0.1, 1.0)])[0] == 0.1


def test_a_negative_coherence_has_a_lower_limit():
    table = [line(0.0, 1.0, coherence=-0.1), line(0.1, 2.0, coherence=-0.105), line(0.5, 3.0, coherence=-0.2)]
    assert picked(table)[0] == 0.1


def test_the_table_holds_the_uncontrolled_line_and_each_step_size(policy_and_network):
    strength = choose(policy_and_network, Lengths())
    table = strength["table"]
    assert [row["step_size"] for row in table] == [0.0, 0.1, 0.5, 2.0]
    assert table[0]["edit_norm"] == 0 < table[1]["edit_norm"] < table[2]["edit_norm"]
    assert strength["step_size"] == max(table[1:], key=lambda row: row["reward"])["step_size"]
    for row in table:
        assert row["reward_ci_low"] <= row["reward"] <= row["reward_ci_high"]
        assert 0 <= row["length_rate"] <= 1
        assert 0 < row["tokens_per_response"] <= 10
        assert (row["n"], row["not_scored"], row["coherence"]) == (8, 0, 1.0)


def test_finished_step_sizes_are_not_decoded_again_after_a_kill(policy_and_network, tmp_path, monkeypatch):
    undisturbed = choose(policy_and_network, Lengths())
    reward = Lengths()
    score = reward.score

    def killed(messages, responses):
        if reward.calls == 2:
            raise KeyboardInterrupt
        return score(messages, responses)

    reward.score = killed
    with pytest.raises(KeyboardInterrupt):
        choose(policy_and_network, reward, ChunkStore(tmp_path))
    again = Lengths()
    assert choose(policy_and_network, again, ChunkStore(tmp_path)) == undisturbed
    assert again.calls == 2  # of four lines, two were stored


def test_prompts_without_a_response_are_counted_and_all_of_them_are_an_error(policy_and_network):
    long = {"row_id": "long", "messages": [{"role": "user", "content": "word " * 300}]}
    strength = choose(policy_and_network, Lengths(), rows=[*prompt_rows(), long])
    assert {(row["n"], row["not_scored"]) for row in strength["table"]} == {(8, 1)}
    with pytest.raises(DataError, match="none of the 1 validation prompts"):
        choose(policy_and_network, Lengths(), rows=[long])


def test_each_step_size_has_the_coherence_of_its_responses(policy_and_network):
    policy, network = policy_and_network
    lengths = choose_strength(
        policy,
        prompt_rows(),
        BLOCK,
        resources_of(policy, network),
        Lengths(),
        lambda prompts, responses: [float(len(response)) for response in responses],
        ChunkStore(None),
    )
    for row in lengths["table"]:
        assert row["coherence"] == pytest.approx(row["reward"])


def test_diversity_is_computed_by_the_evaluation_room(policy_and_network, monkeypatch):
    monkeypatch.setattr(strengths_module, "diversity", lambda text: 0.25)
    assert choose(policy_and_network, Lengths())["table"][0]["diversity"] == 0.25


def test_the_published_objective_is_the_sum_of_coherence_diversity_and_reward():
    """The reward has any scale and the other two are at most 1, so broken text can win."""
    table = [line(0.0, 1.0), line(0.1, 1.5), line(0.5, 1.6, diversity=0.5, coherence=0.9), line(1.0, 1.7, 0.1, 0.2)]
    sums = {0.1: 1.5 + 0.8 + 0.5, 0.5: 1.6 + 0.5 + 0.9, 1.0: 1.7 + 0.1 + 0.2}
    chosen, reason = picked(table, objective="published")
    assert chosen == max(sums, key=sums.get) == 0.5
    assert "3.000, uncontrolled 2.300" in reason
    broken = [*table, line(2.0, 9.0, diversity=0.0, coherence=0.0)]
    assert picked(broken, objective="published")[0] == 2.0
    assert picked(broken)[0] == 0.1  # the objective `guarded`
    assert picked([line(0.0, 1.0), line(0.1, None)], objective="published")[0] == 0.0


def test_the_weakest_of_equally_good_strengths_is_chosen():
    table = [line(0.0, 1.0), line(0.5, 2.0, n_steps=30), line(0.5, 2.0, n_steps=10), line(1.0, 2.0, n_steps=10)]
    for objective in ("guarded", "published"):
        chosen, _ = pick(table, choice_of(objective=objective))
        assert (chosen["step_size"], chosen["n_steps"]) == (0.5, 10)


def block_with_steps(grid, steps, **changes):
    choice = choice_of(grid=grid, steps=steps, min_diversity=0.0, **changes)
    return BLOCK.model_copy(update={"n_steps": "chosen", "choice": choice})


def test_every_step_size_is_decoded_with_every_number_of_steps(policy_and_network, tmp_path):
    block = block_with_steps([2.0, 0.1], [6, 2])
    strength = choose(policy_and_network, Lengths(), ChunkStore(tmp_path), block=block)
    strengths = [(row["step_size"], row["n_steps"]) for row in strength["table"]]
    assert strengths == strengths_of(block, block.choice) == [(0.0, 2), (0.1, 2), (2.0, 2), (0.1, 6), (2.0, 6)]
    edit_norms = {key: row["edit_norm"] for key, row in zip(strengths, strength["table"], strict=True)}
    assert edit_norms[0.1, 6] > 2 * edit_norms[0.1, 2] > 0  # the number of steps has an effect
    best = max(strength["table"][1:], key=lambda row: row["reward"])
    assert (strength["step_size"], strength["n_steps"]) == (best["step_size"], best["n_steps"])
    again = Lengths()
    assert choose(policy_and_network, again, ChunkStore(tmp_path), block=block) == strength
    assert again.calls == 0


def test_the_chosen_strength_decodes_the_same_responses_again(policy_and_network):
    policy, network = policy_and_network
    strength = choose(policy_and_network, Lengths(), block=block_with_steps([0.5], [2, 6]))
    settings = block_with_steps([0.5], [2, 6]).model_dump()
    table, notes = decode_under(
        policy, prompt_rows(), control_block(settings, strength), resources_of(policy, network), ChunkStore(None)
    )
    line = next(row for row in strength["table"] if row["n_steps"] == strength["n_steps"] and row["step_size"])
    assert notes["tokens"] == line["tokens"]
    assert sum(len(text) for text in table["response"].to_pylist()) / 8 == pytest.approx(line["reward"])


def test_the_weight_of_a_search_is_chosen(policy_and_network):
    choice = choice_of(grid=[0.5, 4.0], min_diversity=0.0)
    decoding = Decoding(max_new_tokens=6, batch_size=4)
    block = CdPrefixBlock(
        method="cd_prefix", value_model="v", weight="chosen", top_k=3, choice=choice, decoding=decoding
    )
    strength = choose(policy_and_network, Lengths(), block=block)
    assert [(row["step_size"], row["n_steps"]) for row in strength["table"]] == [(0.0, None), (0.5, None), (4.0, None)]
    assert [row["candidates_scored"] > 0 for row in strength["table"]] == [False, True, True]
    assert (strength["strength"], strength["n_steps"]) == ("weight", None)
    chosen = control_block(block.model_dump(), strength)
    assert (chosen.weight, chosen.choice) == (strength["step_size"], None)
