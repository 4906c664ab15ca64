"""The input-embedding attack: attacked prompts, attempts, loss, controls, and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rebend.config.decoding import Decoding
from rebend.config.safety import EmbeddingBlock
from rebend.data.tiny_world.generate import generate as world_rows
from rebend.evaluation.attacks import embedding
from rebend.evaluation.attacks.attack import run_attack
from rebend.evaluation.attacks.soft_tokens import drawn_tokens, optimise, split_prompt
from rebend.generation.fixed_batches import generate_batch
from rebend.generation.generate import generate
from rebend.generation.intervention import NoControl
from rebend.generation.requests import Request, make_requests
from rebend.io.chunks import ChunkStore
from rebend.io.schemas import COMPLETIONS
from rebend.models.chat import with_instruction
from rebend.models.loading import Policy, load_policy
from rebend.recontrol.methods.cd_prefix import PrefixSearch
from rebend.recontrol.methods.controlled_decoding import RewardSearch
from rebend.recontrol.methods.prompting import Prompting
from rebend.recontrol.methods.static import StaticShift
from rebend.recontrol.value_model.network import Shape, new_network
from tests.helpers.reward_models import make_reward
from tests.helpers.small_policy import PROMPTS, make_policy, prompt_rows
from tests.helpers.tiny_parts import make_model
from tests.unit.generation.test_generate import Shift

GREEDY = Decoding(max_new_tokens=12, batch_size=8)
ATTACK = EmbeddingBlock(method="embedding", update="sign", n_tokens=4, steps=15, lr=0.1, stop_loss=0.5, batch_size=3)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return make_policy()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_policy(make_model(tmp_path_factory.mktemp("model"), hidden_size=64, steps=300, loss="assistant"))


def evaluation_rows() -> list[dict[str, Any]]:
    """Alternate harmful and benign prompts; every second harmful row has its own target."""
    return [
        {**row, "harmful": i % 2 == 0, "target": "First take the lamp," if i % 4 == 0 else "", "category": ""}
        for i, row in enumerate(prompt_rows())
    ]


def attacked(policy: Policy, settings: EmbeddingBlock, decoding: Decoding = GREEDY, **rest: Any) -> Any:
    rows, control, parts = (
        rest.get(k) or d
        for k, d in (("rows", evaluation_rows()), ("control", NoControl()), ("parts", ChunkStore(None)))
    )
    return run_attack(policy, rows, settings, decoding, control, parts)


def test_embeddings_of_a_prompt_give_the_same_response_as_its_tokens(policy: Policy) -> None:
    embed = policy.model.get_input_embeddings()
    requests = make_requests(policy, PROMPTS)
    with torch.no_grad():
        soft = [Request(r.key, [], embeddings=embed(torch.tensor(r.prompt_ids)), messages=r.messages) for r in requests]
    network = new_network(Shape(32, 24, 2), 0).requires_grad_(False)
    searches = (PrefixSearch(network, 9.0, 4), RewardSearch(make_reward(), 3.0, 4))
    controls = (NoControl(), Shift(0.5), StaticShift(torch.ones(32), 2.0), *searches)
    for decoding in (GREEDY, GREEDY.model_copy(update={"temperature": 1.0}), GREEDY.model_copy(update={"stop": ["a"]})):
        for control in controls:
            plain = generate_batch(policy, requests, decoding, control=control)
            assert generate_batch(policy, soft, decoding, control=control) == plain


def test_only_harmful_prompts_are_attacked_without_prefill(policy: Policy) -> None:
    table, notes = attacked(policy, ATTACK)
    assert table.schema == COMPLETIONS
    assert table["row_id"].to_pylist() == [row["row_id"] for row in evaluation_rows() if row["harmful"]]
    assert set(table["prefill"].to_pylist()) == {""} and set(table["attempt"].to_pylist()) == {0}
    assert notes["prompts_attacked"] == 4


def test_released_variant_adds_the_suffix_and_leaves_contexts_out(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def watched(tokenizer: Any, messages: Any, target: str) -> Any:
        asked.append((messages[-1]["content"], target))
        return split_prompt(tokenizer, messages, target)

    monkeypatch.setattr(embedding, "split_prompt", watched)
    rows = [
        {**row, "messages": [{"role": "user", "content": text}], "group": group, "target": target}
        for row, (text, group, target) in zip(
            [row for row in evaluation_rows() if row["harmful"]],
            [
                ("a long text\n\n---\n\ntake the lamp", "contextual", "Here it is"),
                ("one\n\n---\n\ntwo", "standard", "Here it is"),
                ("take the jar", "contextual", ""),
            ],
            strict=False,
        )
    ]
    short = ATTACK.model_copy(update={"steps": 1, "target": "Sure"})
    attacked(policy, short.model_copy(update={"variant": "released_code"}), rows=rows)
    assert asked == [
        ("take the lamp", "Here it is:\n\n"), ("one\n\n---\n\ntwo", "Here it is:\n\n"), ("take the jar", "Sure:\n\n")
    ]  # fmt: skip
    asked.clear()
    attacked(policy, short, rows=rows)
    assert asked == [(row["messages"][0]["content"], row["target"] or "Sure") for row in rows]


def test_loss_decreases_and_responses_begin_with_the_target(trained: Policy) -> None:
    target = "then"
    rows = [
        {**row, "row_id": f"r{i}", "target": target} for i, row in enumerate(world_rows("safety_validation", 32, 0))
    ]
    harmful = [row for row in rows if row["harmful"]]
    plain = [r.text for r in generate(trained, [row["messages"] for row in harmful], GREEDY) if r]
    assert not any(text.startswith(target) for text in plain)
    settings = ATTACK.model_copy(update={"steps": 40, "lr": 0.05, "stop_loss": 0.05, "batch_size": 16})
    table, notes = attacked(trained, settings, rows=rows)
    assert notes["loss_at_start"] > 5 and notes["loss_at_end"] < 0.1
    assert notes["losses_not_finite"] == 0 and notes["reached_stop_loss"] > 8 and notes["mean_steps"] < 40
    assert sum(text.startswith(target) for text in table["response"].to_pylist()) > 12


def test_sign_steps_lower_the_loss_more_than_sgd_and_sgd_more_than_random_tokens(trained: Policy) -> None:
    rows = [row for row in world_rows("safety_validation", 32, 0) if row["harmful"]]
    places = [split_prompt(trained.tokenizer, row["messages"], "then take") for row in rows]
    random = torch.stack([drawn_tokens(trained, i, 4) for i in range(len(rows))])

    def losses(**changed: Any) -> torch.Tensor:
        settings = ATTACK.model_copy(update={"stop_loss": 0.0, "steps": 20, **changed})
        return torch.tensor([trajectory.losses for trajectory in optimise(trained, places, random, settings)])

    sign, sgd = losses(lr=0.03), losses(update="sgd", lr=1e-4)
    assert torch.equal(sign[:, 0], sgd[:, 0])  # the same start
    assert (sgd[:, -1] < sgd[:, 0]).all()
    assert (sign[:, -1] < sgd[:, -1]).all()
    assert sign[:, -1].mean() < 0.5 * sign[:, 0].mean()


def test_starts_and_generations_are_numbered_as_attempts_and_reproducible(policy: Policy) -> None:
    settings = ATTACK.model_copy(update={"attempts": 2, "generations": 3, "stop_loss": 0.0, "lr": 0.05, "steps": 6})
    table, _ = attacked(policy, settings)
    assert table.equals(attacked(policy, settings)[0])
    lines = table.to_pylist()
    assert [line["attempt"] for line in lines] == [0, 1, 2, 3, 4, 5] * 4
    for start in range(0, len(lines), 6):
        texts = [line["response"] for line in lines[start : start + 6]]
        assert len(set(texts[:3])) > 1  # different points
        assert texts[:3] != texts[3:]  # different starts
    first = attacked(policy, settings.model_copy(update={"attempts": 1}))[0].to_pylist()
    assert first == [line for line in lines if line["attempt"] < 3]
    early = attacked(policy, settings.model_copy(update={"attempts": 1, "generations": 1, "steps": 2}))[0].to_pylist()
    assert [line["response"] for line in early] == [line["response"] for line in lines if line["attempt"] == 0]
    reseeded = attacked(policy, settings.model_copy(update={"seed": 1}))[0].to_pylist()
    same = [a == b for a, b in zip(lines, reseeded, strict=True)]
    assert all(same[i] for i, line in enumerate(lines) if line["attempt"] < 3)  # start 0 does not depend on the seed
    assert not all(same)


def test_response_does_not_depend_on_batch_or_row_order(policy: Policy) -> None:
    together, _ = attacked(policy, ATTACK)
    alone, _ = attacked(policy, ATTACK.model_copy(update={"batch_size": 1}))
    backwards, _ = attacked(policy, ATTACK, rows=evaluation_rows()[::-1])
    assert together.equals(alone)
    assert together.to_pylist() == backwards.to_pylist()[::-1]


def test_soft_tokens_follow_the_prompt_with_the_controls_instruction(policy: Policy) -> None:
    rows = [row for row in evaluation_rows() if row["harmful"]]
    by_hand = [{**row, "messages": with_instruction(row["messages"], "Be kind.")} for row in rows]
    controlled, _ = attacked(policy, ATTACK, rows=rows, control=Prompting("Be kind."))
    assert controlled.equals(attacked(policy, ATTACK, rows=by_hand)[0])


def test_control_of_hidden_states_acts_during_decoding(policy: Policy) -> None:
    table, _ = attacked(policy, ATTACK, control=Shift(0.5))
    assert all(line["edit_norm"] > 0 for line in table.to_pylist() if line["n_tokens"])


def test_guidance_reward_model_receives_the_request_without_soft_tokens(policy: Policy) -> None:
    """A reward model cannot read soft tokens, and the control must not fail."""
    guided, _ = attacked(policy, ATTACK, control=RewardSearch(make_reward(), 8.0, 4))
    plain, _ = attacked(policy, ATTACK)
    assert guided["row_id"].equals(plain["row_id"]) and guided["response"].null_count == 0
    assert not guided["response"].equals(plain["response"])


def test_prompt_without_room_for_soft_tokens_is_not_attacked(policy: Policy) -> None:
    rows = evaluation_rows()
    rows[2] = {**rows[2], "messages": [{"role": "user", "content": "word " * 200}]}
    table, notes = attacked(policy, ATTACK.model_copy(update={"generations": 2}), rows=rows)
    lost = [(line["row_id"], line["attempt"]) for line in table.to_pylist() if line["response"] is None]
    assert lost == [("row2", 0), ("row2", 1)]
    assert notes["prompts_without_room"] == 1
    many, notes = attacked(policy, ATTACK.model_copy(update={"n_tokens": 120}))
    assert many["response"].null_count == many.num_rows == 4 and notes["prompts_without_room"] == 4


def test_finished_batches_are_not_attacked_again(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = attacked(policy, ATTACK)
    real, calls = embedding.optimise, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(embedding, "optimise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        attacked(policy, ATTACK, parts=ChunkStore(tmp_path))
    resumed = attacked(policy, ATTACK, parts=ChunkStore(tmp_path))
    assert len(calls) == 3  # two batches; the first was stored
    assert resumed[0].equals(expected[0]) and resumed[1] == expected[1]


def test_losses_that_are_not_finite_are_counted_and_left_out_of_means(policy: Policy) -> None:
    rows = [row for row in evaluation_rows() if row["harmful"]]
    table, notes = attacked(policy, ATTACK.model_copy(update={"lr": 1e39}), rows=rows)
    assert notes["losses_not_finite"] == 4 and "loss_at_end" not in notes
    assert table.num_rows == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"generations": 9, "steps": 3}, "generations"), ({"target": ""}, "target"), ({"start": ""}, "start")],
)
def test_invalid_settings_raise_value_error(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmbeddingBlock(method="embedding", **changed)
