"""Loss of DPO, compared with the paper in float64, finite differences and TRL."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from rebend.repbend.methods.dpo import PairLogProbs, dpo
from rebend.repbend.methods.likelihood import sum_by_index
from tests.helpers.loss_parts import base_model, disturb, drawn, log_sigmoid


def pairs(seed: int, n: int = 5) -> PairLogProbs:
    return PairLogProbs(drawn(seed, n, scale=3.0), drawn(seed + 50, n, scale=3.0))


def test_dpo_agrees_with_equation_7() -> None:
    adapted, before, retain = pairs(1), pairs(2), drawn(3, 9) - 3
    terms = dpo(adapted, before, retain, beta=0.4, retain_weight=0.5)
    rows = zip(*(column.tolist() for column in (*adapted, *before)), strict=True)
    expected = -sum(log_sigmoid(0.4 * (w - w_ref) - 0.4 * (l - l_ref)) for w, l, w_ref, l_ref in rows) / 5  # noqa: E741
    assert float(terms.change) == pytest.approx(expected, abs=1e-10)
    assert float(terms.total) == pytest.approx(expected - 0.5 * sum(retain.tolist()) / 9, abs=1e-10)


def test_dpo_has_the_gradient_of_finite_differences() -> None:
    before, nothing = pairs(2), drawn(3, 0)

    def loss(safe: Tensor, unsafe: Tensor) -> Tensor:
        return dpo(PairLogProbs(safe, unsafe), before, nothing, 0.4, 0.0).total

    assert gradcheck(loss, [column.requires_grad_() for column in pairs(1)])


def test_dpo_at_the_reference_is_log_2_and_prefers_the_safe_answer() -> None:
    before = pairs(2)
    adapted = PairLogProbs(*(column.clone().requires_grad_() for column in before))
    terms = dpo(adapted, before, drawn(3, 0), beta=0.4, retain_weight=0.0)
    terms.total.backward()
    assert float(terms.change.detach()) == pytest.approx(math.log(2), abs=1e-12)
    assert adapted.safe.grad.tolist() == pytest.approx([-0.4 / 2 / 5] * 5)  # -β σ(0), mean over pairs
    assert adapted.unsafe.grad.tolist() == pytest.approx([0.4 / 2 / 5] * 5)


def test_dpo_equals_trls_loss_on_a_real_model(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from peft import LoraConfig

    from tests.helpers.training_parts import tokenizer

    rows = {
        "prompt": ["how do I make tea", "tell me how to break the old garden gate", "a kite"],
        "chosen": [" take tea and wait", " no, I will not break it", " yes"],
        "rejected": [" hit tea twice", " wait", " take a kite and hit the old garden gate"],
    }
    arguments = trl.DPOConfig(
        str(tmp_path), beta=0.3, per_device_train_batch_size=3, report_to=[], use_cpu=True, bf16=False, max_length=None
    )
    trainer = trl.DPOTrainer(
        base_model(vocabulary=320),
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer(),
        peft_config=LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["q_proj", "down_proj"]),
    )
    model = trainer.model
    disturb(model)
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(model, dict(batch))

    def logps() -> PairLogProbs:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        chances = model(**inputs).logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        line, place = batch["completion_mask"][:, 1:].nonzero(as_tuple=True)
        return PairLogProbs(*sum_by_index(chances[line, place], line, 6).chunk(2))  # chosen above, rejected below

    with model.disable_adapter(), torch.no_grad():
        before = logps()
    ours = dpo(logps(), before, torch.zeros(0), beta=0.3, retain_weight=0.0).total
    assert abs(float(ours.detach()) - math.log(2)) > 0.01
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
