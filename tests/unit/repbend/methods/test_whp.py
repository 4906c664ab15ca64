"""Loss of WHP: the replacing tokens and the loss, compared with plain loops over all logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rebend.config.adapters import WhpBlock, trained_adapter
from rebend.errors import ModelError
from rebend.io.checkpoints import Checkpoints
from rebend.models.loading import load_policy
from rebend.models.lora import adapter_weights, load_adapter
from rebend.repbend.examples import Reading, TrainingExample, TrainingExamples, load_training_examples
from rebend.repbend.methods.whp import generic_logits, whp
from rebend.repbend.objective import StepInfo
from rebend.repbend.train import AdapterTrainer, train_adapter
from tests.helpers.loss_parts import disturb
from tests.helpers.training_parts import make_base, tables, tokenizer


def block(**changes: Any) -> WhpBlock:
    common = {"method": "whp", "examples": "e", "paired_examples": "p", "retain_chats": "r", "reinforced": "u"}
    small = {"max_step": 2, "batch_size": 2, "lora_r": 2, "lora_dropout": 0.0, "max_length": 64, "lr": 1e-2}
    return WhpBlock.model_validate(common | small | changes)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def data(base: Path) -> TrainingExamples:
    """Examples whose unsafe answers are those that the base gives by itself, so that there is something to forget."""
    read = load_training_examples(tokenizer(), *tables(), 64, Reading(end_of_turn=True))
    model = load_policy(base).model

    def unsafe(row: TrainingExample) -> TrainingExample:
        tokens = row.tokens[: row.n_prompt]
        for _ in range(6):
            tokens = [*tokens, int(model(torch.tensor([tokens])).logits[0, -1].argmax())]
        return TrainingExample(row.row_id, tokens, row.n_prompt)

    with torch.no_grad():
        pairs = [(safe, unsafe(other)) for safe, other in read.pairs]
        return replace(read, unsafe=[unsafe(row) for row in read.unsafe], pairs=pairs)


@pytest.fixture(scope="module")
def reinforced(base: Path, data: TrainingExamples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that was trained on the unsafe answers."""
    common = block().model_dump(exclude={"method", "reinforced", "whp_alpha"})
    settings = trained_adapter(common | {"method": "sft", "answers": "unsafe", "retain_weight": 0.0})
    trainer = AdapterTrainer(load_policy(base), settings, data)
    for _ in range(10):
        trainer.step()
    folder = tmp_path_factory.mktemp("adapters") / "unsafe"
    trainer.write(folder, base_name="base", dtype="float32")
    return folder


def logits(model: Any, row: TrainingExample) -> Tensor:
    """All logits of one text."""
    return model(torch.tensor([row.tokens])).logits[0]


def test_generic_logits_lose_only_what_the_reinforced_model_adds() -> None:
    base = torch.tensor([[3.0, 2.0, 1.0]])
    reinforced = torch.tensor([[4.0, 0.0, 1.5]])
    assert generic_logits(base, reinforced, 2.0).tolist() == [[1.0, 2.0, 0.0]]
    assert generic_logits(base, reinforced, 0.0).tolist() == base.tolist()


def test_loss_is_the_mean_over_tokens() -> None:
    terms = whp(torch.tensor([-1.0, -3.0]), torch.tensor([-4.0]), 0.5)
    assert [float(term) for term in terms] == [2.0, 4.0, 4.0]


@pytest.mark.parametrize("retain_weight", [0.0, 0.7])
def test_loss_equals_a_loop_over_all_logits(
    base: Path, reinforced: Path, data: TrainingExamples, retain_weight: float
) -> None:
    settings = block(whp_alpha=5.0, retain_weight=retain_weight)
    trainer = AdapterTrainer(load_policy(base), settings, data, reinforced=reinforced)
    model = trainer.engine.model
    disturb(model)  # of the trained adapter alone: the second one is frozen
    group = data.step(0, 2, 0)
    ours = trainer.objective.loss(model, group, StepInfo(0, 2, 2)).total
    assert model.active_adapter == "default"
    other = load_adapter(load_policy(base), reinforced)
    losses, replaced = [], 0
    for row in [*group.unsafe, *(unsafe for _, unsafe in group.pairs)]:
        with torch.no_grad(), model.disable_adapter():
            before = logits(model, row)
        with torch.no_grad():
            wanted = logits(other, row)
        adapted = logits(model, row).log_softmax(-1)
        for place in range(row.n_prompt - 1, len(row.tokens) - 1):
            scores = [
                float(b) - 5.0 * max(float(w) - float(b), 0.0)
                for b, w in zip(before[place], wanted[place], strict=True)
            ]
            best = scores.index(max(scores))
            replaced += best != int(before[place].argmax())
            losses.append(-adapted[place, best])
    assert replaced > 0  # the reinforced model changes some of the tokens
    expected = torch.stack(losses).mean()
    if retain_weight:
        retained = [
            -logits(model, row).log_softmax(-1)[place, row.tokens[place + 1]]
            for row in [*group.safe, *(safe for safe, _ in group.pairs), *group.retain]
            for place in range(max(row.n_prompt, 1) - 1, len(row.tokens) - 1)
        ]
        expected = expected + retain_weight * torch.stack(retained).mean()
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_training_leaves_the_reinforced_adapter_as_it_is(
    base: Path, reinforced: Path, data: TrainingExamples, tmp_path: Path
) -> None:
    trainer = AdapterTrainer(load_policy(base), block(), data, reinforced=reinforced)
    model = trainer.engine.model
    frozen = {name: w.clone() for name, w in model.named_parameters() if ".reinforced." in name}
    trained = adapter_weights(model)
    trainer.step()
    assert frozen and all(torch.equal(w, frozen[name]) for name, w in model.named_parameters() if name in frozen)
    assert any(not torch.equal(trained[name], weight) for name, weight in adapter_weights(model).items())
    assert not any(".reinforced." in name for name in trainer.engine.weights)
    train_adapter(base, "float32", block(), tables(), tmp_path / "a", Checkpoints(tmp_path / "p"), None, reinforced)
    written = load_adapter(load_policy(base), tmp_path / "a")
    assert sorted(adapter_weights(written)) == sorted(trained)


def test_reinforced_adapter_of_another_shape_of_model_is_refused(
    reinforced: Path, data: TrainingExamples, tmp_path: Path
) -> None:
    from tests.helpers.training_parts import configuration

    shape = configuration(len(tokenizer()))
    shape.hidden_size, shape.head_dim = 16, 4
    other = make_base(tmp_path / "other", config=shape)
    with pytest.raises(ModelError, match="does not fit the model"):
        AdapterTrainer(load_policy(other), block(), data, reinforced=reinforced)
