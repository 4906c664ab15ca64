"""A small model trained from nothing: batches, loss, checkpoint, and resuming."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rebend.errors import DataError
from rebend.io.checkpoints import Checkpoints
from rebend.models.chat import conversation_text, prompt_text
from rebend.models.loading import FINGERPRINT_FILE, check_checkpoint, fingerprint, load_policy, stamp
from rebend.models.tiny_model import (
    assistant_mask,
    encode_chats,
    learning_rate,
    plan_batches,
    train_tiny_model,
    train_tokenizer,
)
from tests.helpers.tiny_parts import Stopped, StoppedAt, chats, contents, make_model, settings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny"))


def tokenizer():
    return train_tokenizer((turn["content"] for chat in chats() for turn in chat), 400)


def test_checkpoint_is_an_ordinary_one(model, tmp_path):
    check_checkpoint(model, n_layers=2)
    policy = load_policy(model)
    assert policy.fingerprint == json.loads((model / FINGERPRINT_FILE).read_text())["fingerprint"]
    for name, content in contents(model).items():
        if name != FINGERPRINT_FILE:
            (tmp_path / name).write_bytes(content)
    assert fingerprint(tmp_path) == policy.fingerprint, "the stamp is not that of the files"
    assert (policy.revision, stamp(tmp_path, "0123abcd")) == ("", policy.fingerprint)
    assert load_policy(tmp_path).revision == "0123abcd" and fingerprint(tmp_path) == policy.fingerprint
    assert policy.model.generation_config.eos_token_id == policy.tokenizer.eos_token_id
    assert policy.model.generation_config.pad_token_id == policy.tokenizer.pad_token_id
    assert policy.tokenizer.pad_token != policy.tokenizer.eos_token
    assert policy.tokenizer.padding_side == "left"


def test_template_marks_turns_and_ends_the_assistants_turn():
    pieces = tokenizer()
    user, answer = {"role": "user", "content": "how?"}, "so."
    assert prompt_text(pieces, [user]) == "<|user|>how?<|assistant|>"
    assert conversation_text(pieces, [user], answer) == "<|user|>how?<|assistant|>so.<|end|>"
    system = {"role": "system", "content": "be kind"}
    ids = pieces(prompt_text(pieces, [system, user]), add_special_tokens=False)["input_ids"]
    assert [pieces.decode([ids[0]]), pieces.decode([ids[-1]])] == ["<|system|>", "<|assistant|>"]


def test_tokenizer_decodes_any_text_unchanged(model):
    pieces = AutoTokenizer.from_pretrained(model)
    for text in ("Grüße, 漢字 🙂!", "two  spaces\n\tand a tab", "a don't . , stay"):
        assert pieces.decode(pieces(text, add_special_tokens=False)["input_ids"]) == text


def test_training_lowers_the_loss(tmp_path):
    facts = train_tiny_model(chats(), settings(steps=60), tmp_path / "m", Checkpoints(tmp_path / "p"))
    assert facts["first_loss"] == pytest.approx(np.log(400), abs=0.5)
    assert facts["last_loss"] < 0.6 * facts["first_loss"]
    assert facts["chats"] == 300
    assert facts["chats_cut"] == encode_chats(AutoTokenizer.from_pretrained(tmp_path / "m"), chats(), 96)[1]


def test_loss_equals_the_models_loss_on_unpadded_text(tmp_path, monkeypatch):
    rows = chats(40)
    recorded = {}

    def keep(model, loss_of, batches, *rest):
        batch = next(iter(batches))
        recorded.update(model=model, batch=batch, loss=loss_of(batch).item())
        return [1.0]

    monkeypatch.setattr("rebend.models.tiny_model.fit", keep)
    train_tiny_model(rows, settings(), tmp_path / "m", Checkpoints(tmp_path / "p"))
    sequences, _ = encode_chats(AutoTokenizer.from_pretrained(tmp_path / "m"), rows, 96)
    total, count = 0.0, 0
    for row in recorded["batch"]:
        ids = torch.tensor([sequences[row]])
        loss = recorded["model"](input_ids=ids, labels=ids).loss.item()  # the mean over all tokens but the first
        total, count = total + loss * (ids.shape[1] - 1), count + ids.shape[1] - 1
    assert len({len(sequences[row]) for row in recorded["batch"]}) > 1, "no row was padded"
    assert recorded["loss"] == pytest.approx(total / count, rel=1e-5)


def test_assistant_mask_covers_tokens_after_the_mark_up_to_the_end():
    pieces = tokenizer()
    vocabulary = pieces.get_vocab()
    turns = [("user", "how?"), ("assistant", "so."), ("user", "why?"), ("assistant", "thus.")]
    ids = pieces.apply_chat_template(
        [{"role": role, "content": text} for role, text in turns], tokenize=True, return_dict=False
    )
    tokens = torch.tensor([ids + [vocabulary["<|pad|>"]] * 3])
    mask = assistant_mask(tokens, vocabulary["<|assistant|>"], vocabulary["<|end|>"])
    assert pieces.decode(tokens[mask]) == "so.<|end|>thus.<|end|>"


def test_loss_on_the_assistant_does_not_train_prompts(tmp_path):
    losses = {}
    for kind in ("all", "assistant"):
        train_tiny_model(chats(), settings(loss=kind, steps=40), tmp_path / kind, Checkpoints(tmp_path / "p" / kind))
        pieces = AutoTokenizer.from_pretrained(tmp_path / kind)
        trained = AutoModelForCausalLM.from_pretrained(tmp_path / kind)
        prompts = [pieces(chat[0]["content"], return_tensors="pt")["input_ids"] for chat in chats()[:20]]
        losses[kind] = np.mean([trained(input_ids=ids, labels=ids).loss.item() for ids in prompts])
    assert losses["assistant"] > losses["all"] + 0.5


def test_a_killed_training_ends_in_the_same_bytes(model, tmp_path):
    with pytest.raises(Stopped):
        train_tiny_model(chats(), settings(), tmp_path / "again", StoppedAt(tmp_path / "progress", 7))
    assert not (tmp_path / "again").exists()
    facts = train_tiny_model(chats(), settings(), tmp_path / "again", Checkpoints(tmp_path / "progress"))
    assert contents(tmp_path / "again") == contents(model)
    assert facts["first_loss"] > facts["last_loss"]


def test_weights_depend_on_the_seed(model, tmp_path):
    other = make_model(tmp_path, seed=1)
    assert (other / "model.safetensors").read_bytes() != (model / "model.safetensors").read_bytes()


def test_global_random_state_is_unchanged(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    make_model(tmp_path, steps=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_chats_are_cut_at_the_context_and_counted():
    pieces = tokenizer()
    sequences, cut = encode_chats(pieces, chats(50), 30)
    whole, none = encode_chats(pieces, chats(50), 1000)
    assert max(map(len, sequences)) == 30
    assert cut == sum(len(one) > 30 for one in whole) > 0
    assert none == 0
    assert all(short == full[:30] for short, full in zip(sequences, whole, strict=True))


def test_batches_hold_rows_of_similar_length_and_each_row_once_per_pass():
    lengths = list(np.random.default_rng(0).integers(5, 100, size=1000))
    batches = list(plan_batches(lengths, 10, 200, seed=0))
    assert len(batches) == 200
    for first in (0, 100):
        rows = sorted(itertools.chain.from_iterable(batches[first : first + 100]))
        assert rows == list(range(1000))
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert sum(lengths) * 2 / padded > 0.9
    assert batches[:100] != batches[100:]
    assert batches == list(plan_batches(lengths, 10, 200, seed=0)) != list(plan_batches(lengths, 10, 200, seed=1))


def test_fewer_rows_than_a_batch_make_one_batch():
    assert [sorted(batch) for batch in plan_batches([3, 4], 8, 3, seed=0)] == [[0, 1]] * 3


def test_learning_rate_warms_up_and_decays_to_nearly_zero():
    rates = [learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[-1] == pytest.approx(1 / 90)
    assert learning_rate(0, 1, 1.0) > 0


def test_no_chats_are_refused(tmp_path):
    with pytest.raises(DataError, match="nothing to train on"):
        train_tiny_model([], settings(), tmp_path / "m", Checkpoints(tmp_path / "p"))
