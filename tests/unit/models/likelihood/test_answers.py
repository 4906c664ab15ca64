"""Answers as real templates end them: what follows the prompt, and trainings of the likelihood methods."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from rebend.config.adapters import trained_adapter
from rebend.errors import ModelError
from rebend.models.chat import prompt_text
from rebend.models.likelihood.answers import end_of_turn, ended_answer
from rebend.models.loading import Policy
from rebend.repbend.examples import Reading, TrainingExamples, load_training_examples
from rebend.repbend.train import AdapterTrainer, objective_class
from tests.helpers.template_shapes import SHAPES, TEMPLATES, each, shaped_tokenizer
from tests.helpers.training_parts import configuration, pairs, retain, samples, user

ASK, ANSWER = "how do I make tea", "take tea </think> and take tea again"  # the answer's words stand in it twice
WORDS = [ASK, ANSWER] * 4


def spaced(table: pa.Table) -> pa.Table:
    """Return a table in which one answer has outer white space."""
    rows = table.to_pylist()
    rows[0]["response"] = f"\n {rows[0]['response']}  \n"
    return pa.Table.from_pylist(rows, table.schema)


def tokens_after(tokenizer: Any, ask: str, answer: str) -> list[int]:
    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    return ended_answer(tokenizer, user(ask), prompt_text(tokenizer, user(ask)), answer, encode)


def text_after(tokenizer: Any, answer: str) -> str:
    return tokenizer.decode(tokens_after(tokenizer, ASK, answer), skip_special_tokens=False)


@pytest.mark.parametrize("name", SHAPES)
def test_an_answer_ends_as_the_template_ends_it(name: str) -> None:
    """Outer white space of the answer is left out, for templates that trim it and for those that do not."""
    tokenizer = shaped_tokenizer(SHAPES[name], WORDS)
    expected = SHAPES[name].after_prompt.format(ANSWER)
    assert [text_after(tokenizer, answer) for answer in (ANSWER, f" \n{ANSWER} \n")] == [expected] * 2


@pytest.mark.parametrize("method", ["sft", "dpo", "npo"])
@pytest.mark.parametrize("name", SHAPES)
def test_likelihood_methods_train_with_real_templates(name: str, method: str) -> None:
    tokenizer = shaped_tokenizer(SHAPES[name], WORDS)
    torch.manual_seed(0)
    policy = Policy(AutoModelForCausalLM.from_config(configuration(len(tokenizer))), tokenizer, "")
    block = trained_adapter(
        {"method": method, "examples": "e", "paired_examples": "p", "retain_chats": "r", "max_step": 1}
        | {"batch_size": 2, "lora_r": 2, "max_length": 128, "lr": 1e-2}
    )
    reading = objective_class(block).reading(block)
    data = load_training_examples(tokenizer, spaced(samples()), spaced(pairs()), retain(), 128, reading)
    assert data.left_out == {"prompt too long": 0, "empty answer": 0}
    trainer = AdapterTrainer(policy, block, data)
    trainer.step()
    assert math.isfinite(trainer.metrics[-1]["total"]) and trainer.metrics[-1]["grad_norm"] > 0
    _assert_ended(data, tokenizer)


def _assert_ended(data: TrainingExamples, tokenizer: Any) -> None:
    """Each answer that was not cut ends with its only special token."""
    special = {token for token, piece in tokenizer.added_tokens_decoder.items() if piece.special}
    answers = [row.tokens[row.n_prompt :] for row in (*data.safe, *data.unsafe)]
    assert [[place for place, token in enumerate(answer) if token in special] for answer in answers] == [
        [len(answer) - 1] for answer in answers
    ]


def test_answers_of_white_space_only_are_left_out() -> None:
    rows = [{**row, "response": " \n"} if n == 0 else row for n, row in enumerate(samples().to_pylist())]
    tokenizer = shaped_tokenizer(SHAPES["Llama 3"], WORDS)
    table = pa.Table.from_pylist(rows, samples().schema)
    data = load_training_examples(tokenizer, table, pairs(), retain(), 128, Reading(end_of_turn=True))
    assert data.left_out == {"prompt too long": 0, "empty answer": 1}


def test_the_first_token_is_the_one_that_decoding_would_choose() -> None:
    """SentencePiece puts a space in front of a text of its own: " tea" alone would begin with two."""
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(special_tokens=["<unk>", "</s>"], show_progress=False)
    words.train_from_iterator(["[INST] tea [/INST] tea"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = each("[INST] {{ c }} [/INST]", " {{ c }}</s>")
    pieces = tokenizer.convert_ids_to_tokens(tokens_after(tokenizer, "tea", "tea"))
    assert pieces == ["▁tea", "</s>"]


def test_without_any_end_token_the_model_is_refused() -> None:
    tokenizer = shaped_tokenizer(SHAPES["User: and Assistant:, of the paper studies"], WORDS)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="writes no special token after it, and the tokenizer has no EOS"):
        text_after(tokenizer, ANSWER)


@pytest.mark.parametrize("name", SHAPES)
def test_end_of_turn_is_the_last_token_of_an_ended_answer(name: str) -> None:
    tokenizer = shaped_tokenizer(SHAPES[name], WORDS)
    end = end_of_turn(tokenizer, user(ASK), lambda text: tokenizer(text, add_special_tokens=False)["input_ids"])
    assert end == tokens_after(tokenizer, ASK, ANSWER)[-1]


def test_end_of_turn_of_a_template_for_whole_texts_is_the_end_of_text() -> None:
    """Such a template (`variant: released_code`) refuses a dialogue."""
    whole = SHAPES["Llama 2"]._replace(template=(TEMPLATES / "as_written.jinja").read_text(encoding="utf-8"))
    tokenizer = shaped_tokenizer(whole, WORDS)
    assert end_of_turn(tokenizer, user(ASK), tokenizer.encode) == tokenizer.eos_token_id
