from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForSequenceClassification

from rebend.config.rewards import RewardBlock
from rebend.errors import ModelError
from rebend.io.chunks import ChunkStore
from rebend.io.scores import score_table
from rebend.models.chat import conversation_text
from rebend.models.rewards.model import RewardModel, load_reward_model
from rebend.models.rewards.prompt import fill
from tests.helpers.small_policy import PROMPTS, config, tokenizer

CLASSIFIER = RewardBlock(local="x", batch_size=3)
ULTRA = RewardBlock(local="x", head="regression_head", batch_size=3)
RESPONSES = ["take a lamp", "", "no", "open the lid and then turn the copper kettle", "a", "b c d", "so be it", "yes"]


@pytest.fixture
def ultra(reward_folder, tmp_path) -> Path:
    """The same weights in UltraRM's layout: `model.`, `regression_head.weight`, and the name of its architecture."""
    weights = load_file(reward_folder / "model.safetensors")
    weights["regression_head.weight"] = weights.pop("score.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((reward_folder / "config.json").read_text())
    settings["architectures"] = ["LlamaRewardModel"]
    del settings["id2label"], settings["label2id"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    tokenizer().save_pretrained(tmp_path)
    return tmp_path


def by_hand(folder: Path) -> list[float]:
    """Return the reward of each text alone, without padding, by body and head."""
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    rewards = []
    for messages, response in zip(PROMPTS, RESPONSES, strict=True):
        ids = tokenizer()(conversation_text(tokenizer(), messages, response), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            state = model.model(torch.tensor([ids])).last_hidden_state[0, -1]
            rewards.append(float(model.score(state)))
    return rewards


@pytest.mark.parametrize(("changes", "limit"), [({"batch_tokens": 60}, 60), ({}, 400)])
def test_texts_of_mixed_length_are_read_with_little_padding_in_their_order(reward_folder, monkeypatch, changes, limit):
    responses = ["take " * 45 if i in (2, 5) else response for i, response in enumerate(RESPONSES)]
    model = load_reward_model(reward_folder, CLASSIFIER.model_copy(update={"batch_size": 8, **changes}))
    alone = [model.score([messages], [text])[0] for messages, text in zip(PROMPTS, responses, strict=True)]
    passes: list[list[int]] = []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda encoded: (passes.append([len(ids) for ids in encoded]), forward(encoded))[1]
    )
    assert model.score(PROMPTS, responses) == pytest.approx(alone, abs=1e-4)
    assert sum(map(len, passes)) == 8 and len(passes) > 1
    assert all(len(lengths) == 1 or len(lengths) * max(lengths) <= limit for lengths in passes)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", ["<|pad|>", "<|end|>"])
def test_reward_is_read_at_the_last_token_with_any_padding(reward_folder, side, pad):
    model = load_reward_model(reward_folder, CLASSIFIER)
    model.tokenizer = copy.deepcopy(model.tokenizer)
    model.tokenizer.padding_side, model.tokenizer.pad_token = side, pad
    assert model.score(PROMPTS, RESPONSES) == pytest.approx(by_hand(reward_folder), abs=1e-4)


def test_ultrarms_head_is_loaded_without_remote_code(reward_folder, ultra):
    assert load_reward_model(ultra, ULTRA).score(PROMPTS, RESPONSES) == pytest.approx(by_hand(reward_folder), abs=1e-4)


def test_checkpoint_without_its_head_is_refused(reward_folder, ultra):
    with pytest.raises(ModelError, match=r"lacks regression_head.weight.*`head`"):
        load_reward_model(reward_folder, ULTRA)
    with pytest.raises(ModelError, match=r"label"):
        load_reward_model(ultra, CLASSIFIER)  # without id2label it has two labels
    settings = json.loads((ultra / "config.json").read_text())
    (ultra / "config.json").write_text(json.dumps({**settings, "id2label": {"0": "reward"}}))
    with pytest.raises(ModelError, match=r"lacks score.weight.*`head`"):
        load_reward_model(ultra, CLASSIFIER)


def test_classifier_with_several_labels_is_refused(tmp_path):
    settings = config()
    settings.num_labels = 3
    LlamaForSequenceClassification(settings).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has 3"):
        load_reward_model(tmp_path, CLASSIFIER)


def test_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path):
    settings = config()
    settings.num_labels, settings.vocab_size = 1, 300
    LlamaForSequenceClassification(settings).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"highest token is 329.*0 to 299"):
        load_reward_model(tmp_path, CLASSIFIER)


def test_model_without_chat_template_needs_the_key_template(reward_folder, tmp_path):
    plain = copy.deepcopy(tokenizer())
    plain.chat_template = None
    for file in reward_folder.iterdir():
        if file.name in ("config.json", "model.safetensors"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    plain.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="key `template`"):
        load_reward_model(tmp_path, CLASSIFIER)
    template = RewardBlock(local="x", template="Human: {prompt}\nAssistant: {response}")
    assert len(load_reward_model(tmp_path, template).score(PROMPTS[:2], RESPONSES[:2])) == 2


def test_error_names_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_reward_model(tmp_path, CLASSIFIER)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_reward_model(tmp_path, CLASSIFIER)


def test_template_is_filled_with_each_exchange_and_braces_stay_text():
    template = "Human: {prompt}\nAssistant: {response}"
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "what is {response}?"},
        {"role": "assistant", "content": "a {prompt}"},
        {"role": "user", "content": "thanks"},
    ]
    assert fill(template, messages, "{x}") == (
        "Human: Be brief.\nwhat is {response}?\nAssistant: a {prompt}\n\nHuman: thanks\nAssistant: {x}"
    )


def test_long_text_is_cut_at_its_beginning(reward_folder):
    model = load_reward_model(reward_folder, RewardBlock(local="x", max_length=5))
    whole = load_reward_model(reward_folder, CLASSIFIER)
    assert model.encode(PROMPTS[1], "so") == whole.encode(PROMPTS[1], "so")[-5:]


def test_nan_and_no_response_are_not_scored(reward_folder):
    model = load_reward_model(reward_folder, CLASSIFIER)
    model.head.weight.data.fill_(torch.nan)
    rewards = model.score(PROMPTS[:3], ["a", None, "b"])
    assert rewards[1] is None
    assert math.isnan(rewards[0])
    table = score_table(["x", "y", "z"], rewards)
    assert table["score"].to_pylist() == [None] * 3
    reasons = table["not_scored"].to_pylist()
    assert "nan" in reasons[0]
    assert "no response" in reasons[1]


def test_an_empty_response_is_a_response(reward_folder):
    model = load_reward_model(reward_folder, CLASSIFIER)
    assert math.isfinite(model.score(PROMPTS[:1], [""])[0])
    assert model.score([], []) == []


def test_finished_groups_are_not_scored_again(reward_folder, tmp_path, monkeypatch):
    model = load_reward_model(reward_folder, CLASSIFIER)
    first = model.score(PROMPTS, RESPONSES, ChunkStore(tmp_path))
    monkeypatch.setattr(RewardModel, "forward", lambda self, encoded: pytest.fail("scored again"))
    assert model.score(PROMPTS, RESPONSES, ChunkStore(tmp_path)) == first
