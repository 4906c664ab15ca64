"""Benchmarks of the harness on local questions: prompts, scores, unscored questions, and no network."""

from __future__ import annotations

import functools
import json
import random
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from rebend.config.capability import CapabilityBlock
from rebend.errors import DataError, ModelError
from rebend.evaluation.capability import TOO_LONG, harness_task, score_capability
from rebend.evaluation.capability_questions import Question, read_questions
from rebend.io.chunks import ChunkStore
from rebend.io.schemas import CAPABILITY
from rebend.models.loading import Policy
from rebend.models.tiny_model import train_tokenizer
from tests.conftest import shared_data
from tests.helpers import small_policy

SUBJECTS = ("astronomy", "philosophy")
# Replies of the trained model to a sum and to a task of BBH
SUM, LOGIC = " we get 7.", "So the answer is True."
SUMS = ("What is three and four?", "How many days has a week?", "Nine boats, two sink: how many are left?")
TERMS = ("not ( False ) is", "True or False is", "( True ) is")


@functools.cache
def policy(context: int = 2048, dtype: torch.dtype = torch.float32) -> Policy:
    torch.manual_seed(0)
    config = small_policy.config()
    config.max_position_embeddings = context
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:  # so that the choice depends on the whole prompt, not only on its last word
            layer.self_attn.o_proj.weight *= 30
    return Policy(model.to(dtype).eval(), small_policy.tokenizer(), "fingerprint")


@functools.cache
def trained_policy() -> Policy:
    """Return a small Llama that is trained to reply `SUM` to prompts of GSM8K and `LOGIC` to those of BBH."""
    prompts = [(f"Q: {question}\nA:", SUM) for question in SUMS]
    prompts += [(f"Q: {term}\nA: Let's think step by step.\n", LOGIC) for term in TERMS]
    tokenizer = train_tokenizer([prompt + answer for prompt, answer in prompts] * 4, 330)
    torch.manual_seed(0)
    config = small_policy.config()
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 512
    config.initializer_range, config.eos_token_id = 0.02, tokenizer.eos_token_id
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    pairs = []
    for prompt, answer in prompts:
        start, end = (tokenizer.encode(text, add_special_tokens=False) for text in (prompt, answer))
        ids = torch.tensor([[*start, *end, tokenizer.eos_token_id]])
        pairs.append((ids, torch.cat([torch.full((1, len(start)), -100), ids[:, len(start) :]], 1)))
    for _ in range(160):
        loss = sum(model(input_ids=ids, labels=labels).loss for ids, labels in pairs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.3, "the model has not learnt its replies"
    return Policy(model.eval(), tokenizer, "speaker")


def block(task: str, **keys: Any) -> CapabilityBlock:
    return CapabilityBlock.model_validate({"task": task, "source": {"local": "unused"}, **keys})


def questions(task: str, folder: Path, rows: Sequence[dict[str, Any]]) -> list[Question]:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, examples = read_questions(task, [file])
    return found + examples


def mmlu_rows(count: int) -> list[dict[str, Any]]:
    words = [word for prompt in small_policy.PROMPTS for word in prompt[0]["content"].split()]
    asked = [" ".join(random.Random(n).choices(words, k=6)) for n in range(count)]
    return [
        {"subject": SUBJECTS[n % 2], "question": f"{text}?", "choices": text.split()[:4], "answer": n % 4}
        for n, text in enumerate(asked)
    ]


def log_probability(asked: Policy, prompt: str, answer: str) -> float:
    """Sum of the log-probabilities of the answer's tokens, by one plain pass in float64 after the model."""
    start = asked.tokenizer.encode(prompt, add_special_tokens=False)
    whole = asked.tokenizer.encode(prompt + answer, add_special_tokens=False)
    with torch.no_grad():
        logits = asked.model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(float(logits[place - 1, whole[place]]) for place in range(len(start), len(whole)))


def scores(asked: Policy, settings: CapabilityBlock, rows: Sequence[Question], **more: Any) -> list[float | None]:
    return score_capability(asked, settings, rows, **more)[0]["score"].to_pylist()


def mmlu_prompt(doc: dict[str, Any]) -> str:
    listed = "".join(f"\n{letter}. {choice}" for letter, choice in zip("ABCD", doc["choices"], strict=True))
    return f"{doc['question']}{listed}\nAnswer:"


def test_mmlu_uses_examples_of_the_subject_and_compares_letters(tmp_path: Path) -> None:
    rows = questions("mmlu", tmp_path, mmlu_rows(70))
    examples, asked = rows[:6], rows[6:]
    expected = []
    for question in asked:
        about = question.category
        shown = [e.doc for e in examples if e.category == about][:2]
        head = f"The following are multiple choice questions (with answers) about {about}.\n\n"
        head += "".join(f"{mmlu_prompt(doc)} {'ABCD'[doc['answer']]}\n\n" for doc in shown)
        choices = [log_probability(policy(), head + mmlu_prompt(question.doc), f" {letter}") for letter in "ABCD"]
        expected.append(float(choices.index(max(choices)) == question.doc["answer"]))
    assert 0 < sum(expected) < len(expected)
    assert scores(policy(), block("mmlu", few_shot=2), asked, examples=examples) == expected


def test_chat_template_turns_worked_examples_into_turns(tmp_path: Path) -> None:
    rows = questions("mmlu", tmp_path, mmlu_rows(62))
    expected = []
    for question in rows[2:]:
        shown = rows[0] if rows[0].category == question.category else rows[1]
        about = f"The following are multiple choice questions (with answers) about {question.category}.\n\n"
        turns = [
            {"role": "system", "content": about},
            {"role": "user", "content": mmlu_prompt(shown.doc)},
            {"role": "assistant", "content": "ABCD"[shown.doc["answer"]]},
            {"role": "user", "content": mmlu_prompt(question.doc)},
        ]
        prompt = policy().tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        choices = [log_probability(policy(), prompt, letter) for letter in "ABCD"]
        expected.append(float(choices.index(max(choices)) == question.doc["answer"]))
    found = scores(policy(), block("mmlu", few_shot=1, chat_template=True), rows[2:], examples=rows[:2])
    assert found == expected
    assert 0 < sum(expected) < len(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mc2_is_the_probability_of_the_right_answers(tmp_path: Path, dtype: torch.dtype) -> None:
    asked = policy(dtype=dtype)
    right, wrong = ["No.", "Never."], ["Yes.", "It is."]
    targets = {"choices": [*right, *wrong], "labels": [1, 1, 0, 0]}
    row = {"question": "Is it late?", "mc1_targets": {**targets, "labels": [1, 0, 0, 0]}, "mc2_targets": targets}
    rows = questions("truthfulqa", tmp_path, [row])
    (found,) = scores(asked, block("truthfulqa", batch_size=1), rows)
    # The six questions before it are only in the harness.
    prompt = harness_task(block("truthfulqa"), "truthfulqa_mc2", rows, []).doc_to_text(rows[0].doc)
    assert prompt.endswith("\n\nQ: Is it late?\nA:") and prompt.count("Q: ") == 7
    chances = [torch.tensor(log_probability(asked, prompt, f" {answer}")).exp() for answer in targets["choices"]]
    assert found == pytest.approx(float(sum(chances[:2]) / sum(chances)), rel=1e-3)


def test_score_that_is_not_finite_is_not_scored(tmp_path: Path) -> None:
    endless = " ".join(["kettle"] * 150) + "."
    targets = {"choices": [endless, endless], "labels": [1, 0]}
    rows = questions("truthfulqa", tmp_path, [{"question": "?", "mc1_targets": targets, "mc2_targets": targets}])
    table, notes = score_capability(policy(), block("truthfulqa"), rows)
    assert table["score"].to_pylist() == [None]
    assert table["not_scored"].to_pylist() == ["the score is nan"]
    assert notes["not_scored"] == {"the score is nan": 1}


def test_multiple_choice_compares_choices_by_their_text(tmp_path: Path) -> None:
    rows = [
        {"question": f"Is {n} late?", "choices": ["no", "yes indeed", "it may be"], "answer": n % 3} for n in range(9)
    ]
    asked = questions("multiple_choice", tmp_path, rows)
    plain, by_length = [], []
    for question in asked:
        prompt, choices = f"Question: {question.doc['question']}\nAnswer:", question.doc["choices"]
        sums = [log_probability(policy(), prompt, f" {choice}") for choice in choices]
        per_letter = [value / len(choice) for value, choice in zip(sums, choices, strict=True)]
        plain.append(float(sums.index(max(sums)) == question.doc["answer"]))
        by_length.append(float(per_letter.index(max(per_letter)) == question.doc["answer"]))
    assert plain != by_length
    assert scores(policy(), block("multiple_choice"), asked) == plain
    assert scores(policy(), block("multiple_choice", metric="acc_norm"), asked) == by_length


def test_gsm8k_extracts_numbers_flexibly_or_after_the_phrase() -> None:
    asked = [Question(str(n), "", {"question": q, "answer": f"so #### {7 + n}"}) for n, q in enumerate(SUMS)]
    settings = {"few_shot": 0, "max_new_tokens": 24}
    assert scores(trained_policy(), block("gsm8k", **settings), asked) == [1.0, 0.0, 0.0]
    assert scores(trained_policy(), block("gsm8k", metric="strict", **settings), asked) == [0.0, 0.0, 0.0]


def test_truncated_answer_is_wrong() -> None:
    asked = [Question("a", "", {"question": SUMS[0], "answer": "so #### 7"})]
    assert scores(trained_policy(), block("gsm8k", few_shot=0, max_new_tokens=1), asked) == [0.0]


def test_bbh_tasks_have_their_own_prompts() -> None:
    asked = [
        Question(str(n), "boolean_expressions", {"input": term, "target": "True" if n else "False"})
        for n, term in enumerate(TERMS)
    ]
    asked.append(Question("x", "navigate", {"input": "go on", "target": "Maybe"}))
    table, _ = score_capability(trained_policy(), block("bbh", few_shot=0, max_new_tokens=24), asked)
    assert table["score"].to_pylist() == [0.0, 1.0, 1.0, 0.0]
    assert table["category"].to_pylist() == ["boolean_expressions"] * 3 + ["navigate"]
    assert table.schema.equals(CAPABILITY)


def test_arc_and_winogrande_are_scored_with_worked_examples(tmp_path: Path) -> None:
    choices = {"text": ["a lamp", "a kettle of copper"], "label": ["A", "B"]}
    arc = [{"question": f"What is {n}?", "choices": choices, "answerKey": "AB"[n % 2]} for n in range(6)]
    rows = questions("arc_challenge", tmp_path, arc)
    example, *asked = rows
    expected = []
    for question in asked:
        prompt = f"Question: {example.doc['question']}\nAnswer: a lamp\n\nQuestion: {question.doc['question']}\nAnswer:"
        sums = [log_probability(policy(), prompt, f" {text}") for text in choices["text"]]
        expected.append(float(sums.index(max(sums)) == choices["label"].index(question.doc["answerKey"])))
    assert scores(policy(), block("arc_challenge", few_shot=1, metric="acc"), asked, examples=[example]) == expected

    blank = {"option1": "the jar", "option2": "the old boat"}
    wino = [{"sentence": f"She took {n} as _ was good.", **blank, "answer": "12"[n % 2]} for n in range(6)]
    example, *asked = questions("winogrande", tmp_path, wino)
    expected = []
    for question in asked:
        number = question.doc["sentence"].split()[2]
        shown = "She took 0 as the jar was good.\n\n"
        begun = [f"{shown}She took {number} as {blank[option]}" for option in ("option1", "option2")]
        sums = [log_probability(policy(), text, " was good.") for text in begun]
        expected.append(float(sums.index(max(sums)) == int(question.doc["answer"]) - 1))
    assert scores(policy(), block("winogrande", few_shot=1), asked, examples=[example]) == expected


def test_prompt_beyond_the_context_is_not_scored(tmp_path: Path) -> None:
    rows = mmlu_rows(4)
    rows[1]["question"] = "what is it " * 200
    asked = questions("mmlu", tmp_path, rows)
    table, notes = score_capability(policy(context=256), block("mmlu", few_shot=0), asked)
    assert table["not_scored"].to_pylist() == [None, TOO_LONG, None, None]
    assert table["score"].null_count == 1
    assert notes["not_scored"] == {TOO_LONG: 1}


def test_prompt_without_room_for_its_answer_is_not_scored() -> None:
    asked = [Question(str(n), "", {"question": "why " * n * 30, "answer": "#### 7"}) for n in (1, 2)]
    table, _ = score_capability(policy(context=256), block("gsm8k", few_shot=0, max_new_tokens=100), asked)
    assert table["not_scored"].to_pylist() == [None, TOO_LONG]


def test_answers_as_long_as_the_context_raise_model_error_with_the_setting() -> None:
    asked = [Question("a", "", {"question": SUMS[0], "answer": "#### 7"})]
    with pytest.raises(ModelError, match="max_new_tokens"):
        score_capability(policy(context=256), block("gsm8k", few_shot=0), asked)


def test_questions_are_not_used_as_worked_examples(tmp_path: Path) -> None:
    asked = questions("mmlu", tmp_path, mmlu_rows(2))
    with pytest.raises(DataError, match="few_shot is 1, but there are 0 examples"):
        score_capability(policy(), block("mmlu", few_shot=1), asked, examples=asked)


def test_unknown_subject_raises_data_error(tmp_path: Path) -> None:
    rows = [{**row, "subject": "astronmy"} for row in mmlu_rows(1)]
    with pytest.raises(DataError, match="Did you mean 'mmlu_astronomy'"):
        score_capability(policy(), block("mmlu", few_shot=0), questions("mmlu", tmp_path, rows))


def test_limit_selects_some_of_the_same_questions(tmp_path: Path) -> None:
    rows = questions("mmlu", tmp_path, mmlu_rows(30))
    whole = score_capability(policy(), block("mmlu", few_shot=0), rows)[0]
    part = score_capability(policy(), block("mmlu", few_shot=0, limit=10), rows)[0]
    known = {row["row_id"]: row for row in whole.to_pylist()}
    assert part.num_rows == 10
    assert part.to_pylist() == [known[row["row_id"]] for row in part.to_pylist()]


def test_killed_run_resumes(tmp_path: Path) -> None:
    rows = questions("mmlu", tmp_path, mmlu_rows(8))
    whole = score_capability(policy(), block("mmlu", few_shot=0), rows, parts=ChunkStore(tmp_path / "parts"))[0]
    kept = sorted((tmp_path / "parts").iterdir())
    assert len(kept) == len(SUBJECTS)
    kept[1].unlink()
    parts = ChunkStore(tmp_path / "parts")
    first = parts.get_or_make(kept[0].stem, list)
    kept[0].unlink()
    parts.get_or_make(
        kept[0].stem, lambda: [[0.25, None], *first[1:]]
    )  # this score in the result shows that the stored piece is used
    again = score_capability(policy(), block("mmlu", few_shot=0), rows, parts=ChunkStore(tmp_path / "parts"))[0]
    assert again["score"].to_pylist() == [0.25, *whole["score"].to_pylist()[1:]]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("mmlu/sample_150.csv", {"task": "mmlu"}),
        ("gsm8k/test_100.jsonl", {"task": "gsm8k", "max_new_tokens": 4, "few_shot": 1}),
        ("truthfulqa/100.csv", {"task": "truthfulqa", "metric": "mc1"}),
    ],
)
def test_real_questions_are_scored_without_network(
    monkeypatch: pytest.MonkeyPatch, name: str, keys: dict[str, Any]
) -> None:
    called: list[Any] = []

    def refuse(*address: Any, **_: Any) -> None:
        called.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    rows, examples = read_questions(keys["task"], [shared_data() / name])
    table, notes = score_capability(policy(4096), block(limit=4, **keys), rows, examples)
    assert table.num_rows == 4
    assert table["score"].null_count == 0
    assert notes["few_shot"] == {"mmlu": 5, "gsm8k": 1, "truthfulqa": 0}[keys["task"]]
    assert called == []
