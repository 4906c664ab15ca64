"""Objectives of the methods that RepBend is compared with: tokens, terms and training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from rebend.config.adapters import trained_adapter
from rebend.errors import ConfigError
from rebend.models.loading import load_policy
from rebend.repbend.examples import Reading, TrainingExample, TrainingExamples, load_training_examples
from rebend.repbend.methods.likelihood import answer_examples, answer_log_probs
from rebend.repbend.objective import StepInfo, run_passes
from rebend.repbend.train import AdapterTrainer, objective_class
from tests.helpers.training_parts import make_base, tables, tokenizer

METHODS: dict[str, dict[str, Any]] = {
    "circuit_breakers": {"target_layers": [1, 2]},
    "rmu": {"target_layer": 2, "transform_layers": [-1]},
    "npo": {},
    "dpo": {"retain_weight": 0.5},
    "sft": {},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def data() -> TrainingExamples:
    return load_training_examples(tokenizer(), *tables(), max_length=64, reading=Reading(end_of_turn=True))


def block(method: str, **changes: Any) -> Any:
    common = {
        "method": method, "examples": "samples", "paired_examples": "pairs", "retain_chats": "retain",
        "max_step": 4, "batch_size": 2, "lr": 5.0e-3, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0,
        "max_length": 64,
    }  # fmt: skip
    return trained_adapter({**common, **METHODS[method], **changes})


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_change_term(base: Path, data: TrainingExamples, method: str) -> None:
    trainer = AdapterTrainer(load_policy(base), block(method, batch_size=6, max_step=30), data)
    for _ in range(30):
        trainer.step()
    names = {"step", "total", "grad_norm", "lr", *trainer.objective.term_names}
    assert set(trainer.metrics[0]) == names and {"change", "retain"} < names
    first, last = trainer.metrics[0], trainer.metrics[-1]
    # Circuit breakers shift weight from one term to the other, so their total need not fall.
    assert last["change"] < first["change"]


@pytest.mark.parametrize(
    ("method", "change", "retain"),
    [
        ("circuit_breakers", 1.0, 0.0),
        ("rmu", None, 0.0),
        ("npo", 2 / 0.1 * math.log(2), None),
        ("dpo", math.log(2), None),
    ],
)
def test_terms_of_a_fresh_adapter_are_those_of_the_reference(
    base: Path, data: TrainingExamples, method: str, change: float | None, retain: float | None
) -> None:
    trainer = AdapterTrainer(load_policy(base), block(method), data)
    trainer.step()
    if change is not None:
        assert trainer.metrics[0]["change"] == pytest.approx(change, rel=1e-5)
    if retain is not None:
        assert trainer.metrics[0]["retain"] == pytest.approx(retain, abs=1e-5)


def test_log_probabilities_of_answers_equal_those_from_all_logits(base: Path, data: TrainingExamples) -> None:
    policy = load_policy(base)
    rows = [data.unsafe[0], data.safe[1], data.unsafe[2]]
    trainer = AdapterTrainer(policy, block("npo"), data)
    with torch.no_grad():
        passes = run_passes(trainer.engine.model, answer_examples(rows), {"answer": [policy.n_layers]})
        log_probs = answer_log_probs(passes, passes.adapted, answer_examples(rows))
    for number, row in enumerate(rows):
        assert float(log_probs[number]) == pytest.approx(float(logps_after(trainer.engine.model, row).sum()), rel=1e-5)


def test_likelihood_methods_train_the_end_of_turn_token(data: TrainingExamples) -> None:
    pieces = tokenizer()
    bare = load_training_examples(pieces, *tables(), max_length=64)
    assert data.unsafe[0].tokens[: len(bare.unsafe[0].tokens)] == bare.unsafe[0].tokens
    assert pieces.eos_token_id in data.unsafe[0].tokens[len(bare.unsafe[0].tokens) :]
    assert [objective_class(block(method)).trains_end_of_turn for method in METHODS] == [False, False, True, True, True]


def test_fine_tuning_trains_the_answers_named_in_its_block(base: Path, data: TrainingExamples) -> None:
    def gained(answers: str) -> tuple[float, float]:
        """How much likelier a token of the safe and of the unsafe answers has become."""
        trainer = AdapterTrainer(
            load_policy(base), block("sft", answers=answers, batch_size=6, retain_weight=0.0), data
        )
        before = likelihoods(trainer.engine.model)
        for _ in range(20):
            trainer.step()
        assert {step["retain"] for step in trainer.metrics} == {0.0}
        after = likelihoods(trainer.engine.model)
        return after[0] - before[0], after[1] - before[1]

    def likelihoods(model: Any) -> tuple[float, float]:
        return mean([logps_after(model, row) for row in data.safe]), mean([logps_after(model, r) for r in data.unsafe])

    (safe, unsafe), (other_safe, other_unsafe) = gained("safe"), gained("unsafe")
    assert safe > other_safe and other_unsafe > unsafe and min(safe, other_unsafe) > 0.5


def logps_after(model: Any, row: TrainingExample, start: int | None = None) -> Tensor:
    """Log-probabilities of the tokens of a row from `start` on (absent: of its answer), by a plain pass."""
    start = row.n_prompt if start is None else start
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.tokens])).logits[0]
    chosen = log_softmax(logits[:-1], -1)[torch.arange(len(row.tokens) - 1), row.tokens[1:]]
    return chosen[start - 1 :]


def mean(parts: list[Tensor]) -> float:
    """The mean over all entries together."""
    return float(torch.cat(parts).mean())


@pytest.mark.parametrize("method", ["circuit_breakers", "rmu", "npo"])
def test_retain_term_is_one_mean_over_safe_answers_and_chats(base: Path, data: TrainingExamples, method: str) -> None:
    trainer = AdapterTrainer(load_policy(base), block(method), data)
    model: Any = trainer.engine.model
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.05)  # an adapter that changes the states
    rows = data.step(0, 2, 0)
    retained = [*rows.safe, *(safe for safe, _ in rows.pairs), *rows.retain]
    retain = float(trainer.objective.loss(model, rows, StepInfo(0, 4, 2)).terms["retain"].detach())
    if method == "npo":
        expected = -mean([logps_after(model, row, max(row.n_prompt, 1)) for row in retained])
    else:
        moves = torch.cat([movement(model, row) for row in retained], 1)  # [n + 1, T, D]
        expected = float(
            moves.norm(dim=-1).mean() if method == "circuit_breakers" else moves[2].square().sum(-1).mean()
        )
    assert retain == pytest.approx(expected, rel=1e-4) and retain > 0.01


def movement(model: Any, row: TrainingExample) -> Tensor:
    """How the adapter moves the hidden states of a row, `[n + 1, T, D]`."""
    tokens = torch.tensor([row.tokens])
    with torch.no_grad():
        after = torch.cat(model(input_ids=tokens, output_hidden_states=True).hidden_states)
        with model.disable_adapter():
            return after - torch.cat(model(input_ids=tokens, output_hidden_states=True).hidden_states)


def test_target_layers_beyond_the_model_are_refused(base: Path, data: TrainingExamples) -> None:
    for method, layers in (("circuit_breakers", {"target_layers": [2, 9]}), ("rmu", {"target_layer": 9})):
        with pytest.raises(ConfigError, match="allowed are indices 1 to 3"):
            AdapterTrainer(load_policy(base), block(method, **layers), data)
