"""Questions of the benchmarks: published columns, invalid rows, worked examples, draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rebend.config.capability import CapabilityBlock
from rebend.errors import DataError
from rebend.evaluation.capability_questions import (
    chance_score,
    draw_questions,
    read_examples,
    read_questions,
    without_questions,
)
from tests.conftest import shared_data

CHOICES = {"text": ["sun", "moon", "lamp"], "label": ["A", "B", "C"]}
NESTED = {"stem": "What shines by day?", "choices": [{"text": t, "label": n} for t, n in (("sun", "A"), ("moon", "B"))]}


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def doc(task: str, path: Path) -> dict[str, Any]:
    (question,), _ = read_questions(task, [path])
    return question.doc


def mmlu(question: str, subject: str = "astronomy", **more: Any) -> dict[str, Any]:
    return {"subject": subject, "question": question, "choices": ["a", "b", "c", "d"], "answer": 2, **more}


def test_mmlu_columns_of_hub_and_authors_give_equal_questions(tmp_path: Path) -> None:
    hub = lines(tmp_path / "hub.jsonl", mmlu("Why?"))
    table = tmp_path / "authors.csv"
    table.write_text("subject,question,A,B,C,D,answer\nastronomy,Why?,a,b,c,d,C\n")
    assert doc("mmlu", hub) == doc("mmlu", table) == {"question": "Why?", "choices": ["a", "b", "c", "d"], "answer": 2}


def test_arc_columns_of_hub_and_authors_give_equal_questions(tmp_path: Path) -> None:
    two = {name: values[:2] for name, values in CHOICES.items()}
    hub = lines(tmp_path / "hub.jsonl", {"question": NESTED["stem"], "choices": two, "answerKey": "A"})
    own = lines(tmp_path / "own.jsonl", {"question": NESTED, "answerKey": "A"})
    assert doc("arc_challenge", hub) == doc("arc_challenge", own)


def test_truthfulqa_answers_are_split_with_the_best_one_first(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    names = "Category,Question,Best Answer,Correct Answers,Incorrect Answers"
    table.write_text(f"{names}\nMyths,Is it so?,No it is not,Never; No it is not.; Hardly,Yes; Always;\n")
    found = doc("truthfulqa", table)
    assert found["mc1_targets"] == {"choices": ["No it is not.", "Yes.", "Always."], "labels": [1, 0, 0]}
    assert found["mc2_targets"]["choices"] == ["No it is not.", "Never.", "Hardly.", "Yes.", "Always."]
    assert found["mc2_targets"]["labels"] == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("name", ["boolean_expressions.json", "0a1b2c3d4e5f-boolean_expressions.json"])
def test_name_of_a_bbh_file_is_the_category(tmp_path: Path, name: str) -> None:
    rows = [{"input": "True and True is", "target": "True"}]
    (tmp_path / name).write_text(json.dumps({"canary": "x", "examples": rows}, indent=2))
    (question,), _ = read_questions("bbh", [tmp_path / name])
    assert (question.category, question.doc) == ("boolean_expressions", rows[0])


def test_folder_of_a_bbh_split_is_the_category(tmp_path: Path) -> None:
    (tmp_path / "navigate").mkdir()
    file = lines(tmp_path / "navigate/test-00000-of-00001.jsonl", {"input": "go", "target": "Yes"})
    assert read_questions("bbh", [file])[0][0].category == "navigate"


def test_files_of_a_benchmark_are_read_in_order(tmp_path: Path) -> None:
    files = [lines(tmp_path / f"{name}.jsonl", {"input": name, "target": "x"}) for name in ("snarks", "navigate")]
    assert [question.category for question in read_questions("bbh", files)[0]] == ["snarks", "navigate"]


@pytest.mark.parametrize(
    ("task", "row", "words"),
    [
        ("mmlu", {"subject": "a", "question": "?", "choices": ["a", "b"], "answer": 0}, "2 choices"),
        ("mmlu", mmlu("?", answer=4), "index from 0 to 3"),
        ("mmlu", mmlu("?", answer="E"), "Allowed: A, B, C, D"),
        ("mmlu", {"subjekt": "a", "question": "?", "choices": list("abcd"), "answer": 0}, "Did you mean 'subjekt'"),
        ("gsm8k", {"question": "1 + 1?", "answer": "2"}, "####"),
        ("winogrande", {"sentence": "a _ b", "option1": "x", "option2": "y", "answer": ""}, "no answers"),
        ("winogrande", {"sentence": "a b", "option1": "x", "option2": "y", "answer": "1"}, "one blank"),
        ("arc_challenge", {"question": "?", "choices": CHOICES, "answerKey": "D"}, "Allowed: A, B, C"),
        ("multiple_choice", {"question": "?", "choices": ["x", "y"], "answer": True}, "index from 0 to 1"),
        (
            "truthfulqa",
            {"question": "?", **{key: {"choices": ["x"], "labels": [0]} for key in ("mc1_targets", "mc2_targets")}},
            "first choice",
        ),
    ],
)
def test_invalid_row_raises_data_error_with_file_and_line(tmp_path: Path, task: str, row: dict, words: str) -> None:
    file = lines(tmp_path / "wrong.jsonl", row)
    with pytest.raises(DataError, match=words) as error:
        read_questions(task, [file])
    assert f"{file}:1" in str(error.value)


def test_file_without_questions_raises_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no question"):
        read_questions("gsm8k", [lines(tmp_path / "empty.jsonl")])


def test_rows_of_dev_and_train_are_examples(tmp_path: Path) -> None:
    rows = [mmlu("one", split="dev"), mmlu("two", split="val"), mmlu("three", split="train"), mmlu("four", split="")]
    file = lines(tmp_path / "m.jsonl", *rows)
    questions, examples = read_questions("mmlu", [file])
    assert [question.doc["question"] for question in questions] == ["two", "four"]
    assert read_examples("mmlu", file) == examples
    assert [example.doc["question"] for example in examples] == ["one", "three"]


def test_read_examples_returns_all_rows_of_a_file_without_splits(tmp_path: Path) -> None:
    assert len(read_examples("mmlu", lines(tmp_path / "m.jsonl", mmlu("one"), mmlu("two")))) == 2


def test_example_that_is_also_a_question_is_removed(tmp_path: Path) -> None:
    twice = [mmlu("one", split="dev"), mmlu("one", split="test"), mmlu("two", split="dev")]
    questions, examples = read_questions("mmlu", [lines(tmp_path / "m.jsonl", *twice)])
    assert [example.doc["question"] for example in without_questions(examples, questions)] == ["two"]


def test_ids_depend_on_the_content_and_repeated_rows_have_different_ids(tmp_path: Path) -> None:
    forth, _ = read_questions("mmlu", [lines(tmp_path / "a.jsonl", mmlu("one"), mmlu("two"), mmlu("one"))])
    back, _ = read_questions("mmlu", [lines(tmp_path / "b.jsonl", mmlu("two"), mmlu("one"))])
    assert len({question.row_id for question in forth}) == 3
    assert {question.row_id for question in back} < {question.row_id for question in forth}


def test_draw_depends_on_content_and_seed_and_is_part_of_a_larger_draw(tmp_path: Path) -> None:
    questions, _ = read_questions("mmlu", [lines(tmp_path / "m.jsonl", *(mmlu(f"q{n}") for n in range(40)))])
    small, large = (draw_questions(questions, limit, 0) for limit in (5, 20))
    ids = {question.row_id for question in small}
    assert ids < {question.row_id for question in large}
    assert ids == {question.row_id for question in draw_questions(questions[::-1], 5, 0)}
    assert ids != {question.row_id for question in draw_questions(questions, 5, 1)}
    assert draw_questions(questions, None, 0) == questions
    with pytest.raises(DataError, match="limit: 41"):
        draw_questions(questions, 41, 0)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"task": "mmlu", "metric": "mc2"}, "Allowed: acc"),
        ({"task": "gsm8k", "few_shot": 9}, "8 worked examples"),
        ({"task": "truthfulqa", "few_shot": 1}, "0 worked examples"),
        ({"task": "bbh", "examples": {"local": "y"}}, "built-in worked examples; it needs no file"),
        ({"task": "winogrande", "max_new_tokens": 9}, "generates no answers"),
        ({"task": "mmlu", "source": []}, "names no file"),
        ({"task": "mmlu", "source": {"world": {"part": "test", "rows": 1}}}, "tiny world has no benchmark"),
    ],
)
def test_invalid_block_raises_validation_error(keys: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        CapabilityBlock.model_validate({"source": {"local": "x"}, **keys})


def test_defaults_of_blocks() -> None:
    blocks = [CapabilityBlock(task=task, source={"local": "x"}) for task in ("mmlu", "gsm8k", "truthfulqa", "bbh")]
    assert [block.shots for block in blocks] == [5, 8, 0, 3]
    assert [block.scored_by for block in blocks] == ["acc", "flexible", "mc2", "exact_match"]
    assert CapabilityBlock(task="arc_challenge", source={"local": "x"}).scored_by == "acc_norm"


@pytest.mark.shared
def test_real_files_are_read_completely() -> None:
    data = shared_data()
    questions, examples = read_questions("mmlu", [data / "mmlu/sample_150.csv"])
    assert (len(questions), len(examples), len({question.category for question in questions})) == (100, 50, 10)
    assert len(read_questions("gsm8k", [data / "gsm8k/test_100.jsonl"])[0]) == 100
    answers = [q.doc["mc2_targets"] for q in read_questions("truthfulqa", [data / "truthfulqa/100.csv"])[0]]
    assert len(answers) == 100
    assert all(a["labels"][0] == 1 and a["labels"][-1] == 0 for a in answers)


@pytest.mark.parametrize(
    ("task", "metric", "doc", "score"),
    [
        ("mmlu", "acc", {"choices": ["a", "b", "c", "d"]}, 0.25),
        ("multiple_choice", "acc_norm", {"choices": ["a", "b", "c"]}, 1 / 3),
        ("arc_challenge", "acc", {"choices": {"text": ["a", "b", "c", "d", "e"]}}, 0.2),
        ("winogrande", "acc", {}, 0.5),
        ("truthfulqa", "mc1", {"mc1_targets": {"labels": [1, 0, 0, 0]}}, 0.25),
        ("truthfulqa", "mc2", {"mc2_targets": {"labels": [1, 1, 1, 0]}}, 0.75),
        ("gsm8k", "flexible", {"answer": "#### 4"}, None),
    ],
)
def test_chance_is_the_score_of_a_random_choice(
    task: str, metric: str, doc: dict[str, Any], score: float | None
) -> None:
    assert chance_score(task, metric, doc) == score
