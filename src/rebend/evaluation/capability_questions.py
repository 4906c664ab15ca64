"""Questions of the capability benchmarks: conversion of published columns to those of the harness's tasks."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rebend.data.readers.raw import Row, SourceRow, parse_json, read_rows
from rebend.data.readers.rows import content_id, optional_text
from rebend.errors import DataError, likely_typo

_LETTERS = "ABCD"
_EXAMPLE_SPLITS = ("dev", "train")


class Question(NamedTuple):
    """A question in the columns of the harness's task."""

    row_id: str  # digest of `doc` and `category`
    category: str  # subject (MMLU), task (BBH), category (TruthfulQA); "" for the others
    doc: dict[str, Any]


def read_questions(task: str, files: Sequence[Path]) -> tuple[list[Question], list[Question]]:
    """Return the questions in the files, and the worked examples (rows of split dev or train).

    Raises `DataError` with file and line for a row that does not belong to the task, or if there is no question.
    """
    questions: list[Question] = []
    examples: list[Question] = []
    seen: Counter[str] = Counter()
    for file in files:
        for placed in _rows(task, file):
            category, doc = _converted(task, placed, file)
            row_id = content_id([category, doc])
            seen[row_id] += 1
            ending = f"-{seen[row_id]}" if seen[row_id] > 1 else ""
            target = examples if placed.row.get("split") in _EXAMPLE_SPLITS else questions
            target.append(Question(row_id + ending, category, doc))
    if not questions and not examples:
        raise DataError(f"{', '.join(str(file) for file in files)}: no question of task '{task}'")
    return questions, examples


def read_examples(task: str, file: Path) -> list[Question]:
    """Return the worked examples in a file: its rows of split dev or train, or all rows of a file without splits."""
    questions, examples = read_questions(task, [file])
    return examples or questions


def without_questions(examples: Sequence[Question], questions: Sequence[Question]) -> list[Question]:
    """Return the examples that are not questions, so that no prompt contains a question with its answer."""
    known = {content_id([question.category, question.doc]) for question in questions}
    return [example for example in examples if content_id([example.category, example.doc]) not in known]


def chance_score(task: str, metric: str, doc: Mapping[str, Any]) -> float | None:
    """Return the expected score, between 0 and 1, of a choice at random; None if the answer is written, not chosen.

    For `mc2`, the share of the right answers, it is the score of a model that finds all answers equally likely.
    """
    if task == "winogrande":
        return 0.5
    if task == "truthfulqa":
        labels = doc[f"{metric}_targets"]["labels"]
        return sum(labels) / len(labels)
    if task == "arc_challenge":
        return 1 / len(doc["choices"]["text"])
    return 1 / len(doc["choices"]) if task in ("mmlu", "multiple_choice") else None


def draw_questions(questions: Sequence[Question], limit: int | None, seed: int) -> list[Question]:
    """Return `limit` questions, drawn by content and `seed` only; a larger draw includes a smaller one.

    Raises `DataError` if there are fewer than `limit` questions.
    """
    if limit is None:
        return list(questions)
    if limit > len(questions):
        raise DataError(f"`limit: {limit}` exceeds the number of questions, {len(questions)}")
    order = sorted(questions, key=lambda question: hashlib.sha256(f"{seed} {question.row_id}".encode()).digest())
    kept = {question.row_id for question in order[:limit]}
    return [question for question in questions if question.row_id in kept]


def _rows(task: str, file: Path) -> Iterator[SourceRow]:
    """Yield the rows of a file; BBH's own files are one JSON object with the rows under `examples`."""
    if task == "bbh" and file.suffix == ".json":
        try:
            content = parse_json(file, file.read_text(encoding="utf-8"), "readable as JSON")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: not readable as JSON ({error})") from error
        if isinstance(content, dict) and isinstance(content.get("examples"), list):
            for number, row in enumerate(content["examples"], start=1):
                yield SourceRow(number, f"{file}, example {number}", row)
            return
    yield from read_rows(file, missing_words=())  # a choice of a table may be the word "None"


def _converted(task: str, placed: SourceRow, file: Path) -> tuple[str, dict[str, Any]]:
    try:
        return _CONVERTERS[task](placed.row, file)
    except KeyError as error:
        column, columns = error.args[0], sorted(placed.row)
        raise DataError(
            f"{placed.place}: column '{column}' is missing; task '{task}' needs it. "
            f"Columns: {', '.join(columns)}.{likely_typo(column, columns)}"
        ) from error
    except ValueError as error:
        raise DataError(f"{placed.place}: {error}") from error


def _mmlu(row: Row, file: Path) -> tuple[str, dict[str, Any]]:
    """Convert columns of the hub (choices: list, answer: index) or of the authors' tables (A to D, a letter)."""
    choices = _texts(row, "choices") if "choices" in row else [_text(row, letter) for letter in _LETTERS]
    if len(choices) != len(_LETTERS):
        raise ValueError(f"{len(choices)} choices; a question of MMLU has {len(_LETTERS)}")
    answer = row["answer"]
    if isinstance(answer, str):
        if answer not in tuple(_LETTERS):
            raise ValueError(f"answer is {answer!r}. Allowed: A, B, C, D")
        answer = _LETTERS.index(answer)
    doc = {"question": _text(row, "question"), "choices": choices, "answer": _index(answer, choices)}
    return _text(row, "subject").replace(" ", "_"), doc


def _gsm8k(row: Row, file: Path) -> tuple[str, dict[str, Any]]:
    answer = _text(row, "answer")
    if "####" not in answer:
        raise ValueError("answer has no '####' before its result")
    return "", {"question": _text(row, "question"), "answer": answer}


def _truthfulqa(row: Row, file: Path) -> tuple[str, dict[str, Any]]:
    """Convert columns of the hub (mc1_targets, mc2_targets) or of the authors' table, split as in their code."""
    if "mc1_targets" in row:
        targets = {
            key: {"choices": _texts(row[key], "choices"), "labels": list(row[key]["labels"])} for key in _TARGETS
        }
        if targets["mc1_targets"]["labels"][:1] != [1]:
            raise ValueError("the first choice of mc1_targets must be the right one")
        return optional_text(row, "category"), {"question": _text(row, "question"), **targets}
    best, wrong = _sentences(row, "Best Answer"), _sentences(row, "Incorrect Answers")
    right = list(dict.fromkeys([*best, *_sentences(row, "Correct Answers")]))
    if len(best) != 1 or not wrong:
        raise ValueError("one best answer and at least one incorrect answer are expected")
    doc = {
        "question": _text(row, "Question"),
        "mc1_targets": _labelled(best, wrong),
        "mc2_targets": _labelled(right, wrong),
    }
    return optional_text(row, "Category"), doc


_TARGETS = ("mc1_targets", "mc2_targets")


def _sentences(row: Row, column: str) -> list[str]:
    """Split the answers of a cell at semicolons; each returned answer ends with a full stop."""
    parts = [part.strip() for part in _text(row, column).split(";")]
    return [part if part.endswith(".") else f"{part}." for part in parts if part]


def _labelled(right: Sequence[str], wrong: Sequence[str]) -> dict[str, list[Any]]:
    return {"choices": [*right, *wrong], "labels": [1] * len(right) + [0] * len(wrong)}


def _arc(row: Row, file: Path) -> tuple[str, dict[str, Any]]:
    """Convert columns of the hub, or the nested question of the authors' JSON lines."""
    if isinstance(row["question"], dict):
        question, listed = _text(row["question"], "stem"), row["question"]["choices"]
        choices = {name: [_text(choice, name) for choice in listed] for name in ("text", "label")}
    else:
        question, choices = _text(row, "question"), {name: _texts(row["choices"], name) for name in ("text", "label")}
    if row["answerKey"] not in choices["label"]:
        raise ValueError(f"answerKey is {row['answerKey']!r}. Allowed: {', '.join(choices['label'])}")
    return "", {"question": question, "choices": choices, "answerKey": row["answerKey"]}


def _winogrande(row: Row, file: Path) -> tuple[str, dict[str, Any]]:
    if row["answer"] not in ("1", "2"):
        raise ValueError(f"answer is {row['answer']!r}. Allowed: 1, 2 (the published test file has no answers)")
    if _text(row, "sentence").count("_") != 1:
        raise ValueError("the sentence must have one blank (_)")
    return "", {name: _text(row, name) for name in ("sentence", "option1", "option2", "answer")}


def _bbh(row: Row, file: Path) -> tuple[str, dict[str, Any]]:
    """Convert a row. Its category is the column `task`, else the name of the file, or of the folder of a split."""
    stem = file.name.split(".")[0]
    named = file.parent.name if stem.startswith(("test", "train")) else stem.rpartition("-")[2]
    return optional_text(row, "task") or named, {"input": _text(row, "input"), "target": _text(row, "target")}


def _multiple_choice(row: Row, file: Path) -> tuple[str, dict[str, Any]]:
    choices = _texts(row, "choices")
    doc = {"question": _text(row, "question"), "choices": choices, "answer": _index(row["answer"], choices)}
    return optional_text(row, "category"), doc


def _text(row: Row, column: str) -> str:
    """Return the text of a column. Raises KeyError without the column, and ValueError if it is missing or no text."""
    value = row[column]
    if not isinstance(value, str):
        raise ValueError(f"'{column}' is {value!r:.60}; text is expected")
    return value


def _texts(row: Row, column: str) -> list[str]:
    """Return the list of texts of a column; raises as `_text` does."""
    values = row[column]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"'{column}' is {values!r:.60}; a list of texts is expected")
    return values


def _index(answer: Any, choices: Sequence[str]) -> int:
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise ValueError(f"answer is {answer!r}; an index from 0 to {len(choices) - 1} is expected")
    return answer


_CONVERTERS: dict[str, Callable[[Row, Path], tuple[str, dict[str, Any]]]] = {
    "mmlu": _mmlu,
    "gsm8k": _gsm8k,
    "truthfulqa": _truthfulqa,
    "arc_challenge": _arc,
    "winogrande": _winogrande,
    "bbh": _bbh,
    "multiple_choice": _multiple_choice,
}
