"""GCG with the library nanogcg, on a random Llama with a real tokenizer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rebend.config.decoding import Decoding
from rebend.config.load import load_config
from rebend.config.safety import GcgBlock
from rebend.errors import ConfigError
from rebend.evaluation.attacks import gcg
from rebend.evaluation.attacks.attack import run_attack
from rebend.evaluation.attacks.attempts import AttackSetup
from rebend.evaluation.attacks.gcg import search_prompts, with_suffix
from rebend.evaluation.attacks.soft_tokens import split_prompt
from rebend.generation.generate import generate
from rebend.generation.intervention import NoControl
from rebend.io.chunks import ChunkStore
from rebend.models.loading import Policy
from rebend.pipeline.checks.before_run import check_before_jobs
from rebend.pipeline.graph.plan import Plan
from rebend.recontrol.methods.prompting import Prompting
from tests.helpers.small_policy import make_policy
from tests.unit.evaluation.attacks.test_embedding import evaluation_rows

ROOT = Path(__file__).parents[4]
GREEDY = Decoding(max_new_tokens=8, batch_size=8)
ATTACK = GcgBlock(method="gcg", suffix=" a a a a", steps=4, search_width=32, top_k=32)
ROWS = [row for row in evaluation_rows() if row["harmful"]]

pytest.importorskip("nanogcg", reason="the extra 'gcg' is not installed")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return make_policy()


def target_loss(policy: Policy, messages: list[dict[str, str]], target: str) -> float:
    """Mean negative log-likelihood of the target after a prompt of real tokens."""
    place = split_prompt(policy.tokenizer, messages, target)
    ids = [*place.before, *place.after, *place.target]
    with torch.no_grad():
        logps = policy.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    n = len(place.target)
    return -logps[-n - 1 : -1].gather(-1, torch.tensor(place.target)[:, None]).mean().item()


def search(policy: Policy, settings: GcgBlock = ATTACK, control: Any = None, parts: ChunkStore | None = None) -> Any:
    setup = AttackSetup(policy, GREEDY, control or NoControl(), parts or ChunkStore(None))
    return search_prompts(ROWS, settings, setup)


def test_suffixes_lower_the_loss_and_follow_the_users_text(policy: Policy) -> None:
    prompts, notes = search(policy)
    before, after = [], []
    for row, (messages,) in zip(ROWS, prompts, strict=True):
        assert messages[-1]["content"].startswith(row["messages"][-1]["content"])
        target = row["target"] or "Sure, here is"
        before.append(target_loss(policy, with_suffix(row["messages"], ATTACK.suffix), target))
        after.append(target_loss(policy, messages, target))
    assert sum(after) < 0.95 * sum(before)
    assert notes["loss_at_end"] == pytest.approx(
        sum(after) / len(after), rel=1e-3
    )  # the decoded prompts are those of the search


def test_responses_equal_those_to_prompts_with_suffix_and_are_reproducible(policy: Policy) -> None:
    table, notes = run_attack(policy, evaluation_rows(), ATTACK, GREEDY, NoControl(), ChunkStore(None))
    assert table["row_id"].to_pylist() == [row["row_id"] for row in ROWS]
    prompts, _ = search(policy)
    by_hand = generate(policy, [messages for (messages,) in prompts], GREEDY)
    assert table["response"].to_pylist() == [response.text for response in by_hand if response]
    assert set(table["prefill"].to_pylist()) == {""}
    again, same = run_attack(policy, evaluation_rows(), ATTACK, GREEDY, NoControl(), ChunkStore(None))
    assert again.equals(table) and same == notes


def test_attempts_are_searches_with_different_seeds(policy: Policy) -> None:
    twice, _ = search(policy, ATTACK.model_copy(update={"attempts": 2}))
    once, _ = search(policy)
    assert [attempts[:1] for attempts in twice] == once
    assert any(first != second for first, second in twice)
    reseeded, _ = search(policy, ATTACK.model_copy(update={"seed": 1}))
    assert reseeded != once


def test_the_search_includes_a_controls_instruction(policy: Policy) -> None:
    prompts, _ = search(policy, control=Prompting("Be kind."))
    assert prompts != search(policy)[0]
    assert not any("Be kind." in messages[-1]["content"] for (messages,) in prompts)  # decoding adds it


def test_finished_searches_are_not_repeated(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = search(policy)
    real, calls = gcg._search, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(gcg, "_search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(policy, parts=ChunkStore(tmp_path))
    assert search(policy, parts=ChunkStore(tmp_path)) == expected
    assert len(calls) == 3 + len(ROWS) - 2


def test_global_state_of_torch_is_restored(policy: Policy) -> None:
    state = torch.get_rng_state()
    search(policy)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    assert all(weight.requires_grad for weight in policy.model.parameters())


def test_prompt_without_room_has_a_null_response(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [ROWS[0], {**ROWS[1], "messages": [{"role": "user", "content": "word " * 200}]}]
    table, notes = run_attack(policy, rows, ATTACK, GREEDY, NoControl(), ChunkStore(None))
    assert table["response"].null_count == 1 and table["response"][1].as_py() is None
    assert notes["prompts_without_room"] == 1


def test_missing_package_raises_config_error(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"nanogcg.*rebend\[gcg\]"):
        search(policy)


def test_missing_package_is_reported_before_any_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    study = yaml.safe_load((ROOT / "config/studies/tiny.yaml").read_text())
    attacked = {**study, "claims": [], "grids": [{**grid, "attacks": ["direct", "gcg"]} for grid in study["grids"]]}
    (tmp_path / "attacked.yaml").write_text(yaml.safe_dump(attacked))
    plan = Plan(load_config({**raw, "study": "attacked"}, tmp_path))
    check_before_jobs(plan)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"attacks\.gcg: .*rebend\[gcg\]"):
        check_before_jobs(plan)
