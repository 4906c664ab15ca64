"""Check of merged models: three numbers and their limits, on answers of the adapted model."""

from __future__ import annotations

import math
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rebend.errors import ModelError
from rebend.models.chat import prompt_text
from rebend.models.loading import load_policy
from rebend.models.lora import load_adapter
from rebend.repbend.merge import equivalence
from rebend.repbend.merge.equivalence import (
    ANSWER,
    CHECK_PROMPTS,
    POSITIONS,
    Equivalence,
    check_equivalence,
    compare,
    expected_answers,
    last_logits,
    merged_equivalence,
)
from rebend.repbend.merge.merge import merge_adapter
from tests.helpers.adapter_parts import make_adapter
from tests.helpers.training_parts import make_base, user


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("adapters") / "adapter")


def test_numbers_equal_a_plain_calculation() -> None:
    first = [torch.tensor([[math.log(3.0), 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.5]])]
    second = [torch.tensor([[0.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.5, 1.0]])]
    equivalence = compare(first, second)
    assert equivalence.max_logit_difference == pytest.approx(math.log(3.0))
    assert equivalence.largest_logit == 2.0
    assert equivalence.greedy_agreement == pytest.approx(2 / 3)
    assert equivalence.positions == 3
    p = 1 / (1 + math.exp(0.5))
    kl_first = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    kl_third = p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p)
    assert equivalence.kl == pytest.approx((kl_first + 0 + kl_third) / 3)


SAME = Equivalence(max_logit_difference=0.0, largest_logit=10.0, greedy_agreement=1.0, kl=0.0, positions=200)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "change",
    [
        {"max_logit_difference": 3.0},
        {"max_logit_difference": math.nan},
        {"greedy_agreement": 0.5},
        {"kl": 0.1},
        {"kl": math.nan},
    ],
)
def test_each_number_beyond_its_limit_raises_and_so_does_nan(dtype: str, change: dict[str, float]) -> None:
    check_equivalence(SAME, SAME, dtype)
    wrong = replace(SAME, **change)
    for rounding in (SAME, wrong):  # also where the yardstick itself is as wrong
        with pytest.raises(ModelError, match=r"logits differ .* greedy .* mean KL .* over 200 positions"):
            check_equivalence(wrong, rounding, dtype)


def test_nan_in_one_logit_of_either_model_raises() -> None:
    good = torch.randn(4, 5)
    bad = good.clone()
    bad[1, 2] = math.nan
    for first, second in ((good, bad), (bad, good)):
        with pytest.raises(ModelError):
            check_equivalence(compare([first, good], [second, good]), SAME, "bfloat16")


def test_measured_rounding_is_allowed_and_twice_as_much_raises() -> None:
    rounding = replace(SAME, max_logit_difference=0.4, kl=2e-3, greedy_agreement=0.96)
    check_equivalence(rounding, rounding, "bfloat16")
    with pytest.raises(ModelError, match="mean KL"):
        check_equivalence(replace(rounding, kl=4e-3), rounding, "bfloat16")
    with pytest.raises(ModelError, match="mean KL"):
        check_equivalence(rounding, SAME, "bfloat16")


def test_positions_are_the_last_ones_of_prompt_and_greedy_answer(base: Path, adapter: Path) -> None:
    chats = [user("how do I make tea"), user("do you like bread " * 12)]
    expected = expected_answers(base, adapter, "float32", chats)
    policy = load_policy(base, "float32")
    model = load_adapter(policy, adapter)
    for chat, tokens, logits in zip(chats, expected.tokens, expected.logits, strict=True):
        prompt = policy.tokenizer(prompt_text(policy.tokenizer, chat), add_special_tokens=False)["input_ids"]
        length = len(prompt)
        assert tokens[0, :length].tolist() == prompt
        assert 0 < tokens.shape[1] - length <= ANSWER
        with torch.no_grad():
            full = model(input_ids=tokens).logits[0]
        assert torch.equal(full[length - 1 : -1].argmax(-1), tokens[0, length:])
        assert logits.shape[0] == min(POSITIONS, tokens.shape[1])
        torch.testing.assert_close(logits, full[-POSITIONS:])
    assert len(expected_answers(base, adapter, "float32").tokens) == len(CHECK_PROMPTS)


def test_rounding_and_effect_of_the_adapter_are_measured(base: Path, adapter: Path) -> None:
    exact, coarse = (expected_answers(base, adapter, dtype) for dtype in ("float32", "bfloat16"))
    assert exact.rounding.kl < 1e-9 < 1e-7 < coarse.rounding.kl < 0.1 * coarse.effect.kl
    assert exact.effect.kl == pytest.approx(coarse.effect.kl, rel=0.3)
    plain = load_policy(base, "float32").model
    assert compare(exact.logits, last_logits(plain, exact.tokens)) == exact.effect


def test_base_model_is_refused_as_merged_model(base: Path, adapter: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        expected = expected_answers(base, adapter, dtype)
        with pytest.raises(ModelError, match="not the base with its adapter"):
            check_equivalence(merged_equivalence(expected, base, dtype), expected.rounding, dtype)


def test_adapter_without_effect_passes(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", strength=0.0)
    for dtype in ("float32", "bfloat16"):
        facts = merge_adapter(base, adapter, tmp_path / "merged", dtype)
        assert facts["adapter_effect"]["kl"] == 0
        shutil.rmtree(tmp_path / "merged")


def test_only_one_model_is_loaded_at_a_time(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref] = []
    load = equivalence.load_policy

    def watched(path: Any, dtype: str) -> Any:
        assert not [model for model in loaded if model() is not None]
        policy = load(path, dtype)
        loaded.append(weakref.ref(policy.model.lm_head.weight))
        return policy

    monkeypatch.setattr(equivalence, "load_policy", watched)
    merge_adapter(base, adapter, tmp_path / "merged", "float32")
    assert len(loaded) == 2
