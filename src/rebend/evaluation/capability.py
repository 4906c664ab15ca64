"""Capability benchmarks of lm-evaluation-harness, on local questions.

Prompts, answer extraction and metrics are those of the harness's tasks. The questions come from local files, so that
no job needs the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import lm_eval.tasks
import pyarrow as pa
from datasets import Dataset, DatasetDict
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from rebend.config.capability import BUILT_IN_SHOTS, CapabilityBlock
from rebend.errors import DataError, ModelError, likely_typo
from rebend.evaluation.capability_questions import Question, chance_score, draw_questions, without_questions
from rebend.io.chunks import ChunkStore
from rebend.io.schemas import CAPABILITY
from rebend.models.loading import Policy

TOO_LONG = "the prompt does not fit the model's context"
_PIECE = 256  # questions per chunk of progress
_GROUP = "rebend"

# The prompt is "Question: ...\nAnswer:"; choices are compared by the probability of their text.
_MULTIPLE_CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")],
}


class HarnessTask(NamedTuple):
    """Folder and name of a task in the harness, and the name of its score."""

    folder: str  # below lm_eval/tasks; "" for a task defined here
    name: str  # `{category}` stands for the question's category
    score: str
    filter: str = "none"


HARNESS = {
    ("mmlu", "acc"): HarnessTask("mmlu/default", "mmlu_{category}", "acc"),
    ("gsm8k", "flexible"): HarnessTask("gsm8k", "gsm8k_cot", "exact_match", "flexible-extract"),
    ("gsm8k", "strict"): HarnessTask("gsm8k", "gsm8k_cot", "exact_match", "strict-match"),
    ("truthfulqa", "mc1"): HarnessTask("truthfulqa", "truthfulqa_mc1", "acc"),
    ("truthfulqa", "mc2"): HarnessTask("truthfulqa", "truthfulqa_mc2", "acc"),
    ("arc_challenge", "acc"): HarnessTask("arc", "arc_challenge", "acc"),
    ("arc_challenge", "acc_norm"): HarnessTask("arc", "arc_challenge", "acc_norm"),
    ("winogrande", "acc"): HarnessTask("winogrande", "winogrande", "acc"),
    ("bbh", "exact_match"): HarnessTask("bbh/cot_fewshot", "bbh_cot_fewshot_{category}", "exact_match", "get-answer"),
    ("multiple_choice", "acc"): HarnessTask("", "multiple_choice", "acc"),
    ("multiple_choice", "acc_norm"): HarnessTask("", "multiple_choice", "acc_norm"),
}


def score_capability(
    policy: Policy,
    block: CapabilityBlock,
    questions: Sequence[Question],
    examples: Sequence[Question] = (),
    parts: ChunkStore | None = None,
) -> tuple[pa.Table, dict[str, Any]]:
    """Answer the questions that `block` draws; return a table of schema CAPABILITY and notes for the record.

    A score is between 0 and 1: 1 for a right answer, or for `mc2` the probability of the right answers. The score of a
    benchmark is the mean over its questions, because the harness weights subjects by their size. A prompt that exceeds
    the context and a score that is not finite are not scored. Worked examples that are also questions are left out.
    Raises `ModelError` if the context leaves no room for a question, `DataError` for a category that is not in the
    harness or for too few examples.
    """
    parts = parts or ChunkStore(None)
    drawn = draw_questions(questions, block.limit, block.seed)
    # Log-probabilities in float32 for every dtype of the model: bfloat16 has two or three digits, so that choices tie.
    lm = HFLM(pretrained=policy.model, tokenizer=policy.tokenizer, batch_size=block.batch_size, softmax_dtype="float32")
    usable = without_questions(examples, questions)
    # All tasks are built before the first question, so that errors in the data stop the job early.
    pieces = [(piece, harness_task(block, name, piece, usable)) for name, piece in _pieces(block, drawn)]
    scored: dict[str, tuple[float | None, str | None]] = {}
    for number, (piece, task) in enumerate(pieces):
        scores = parts.get_or_make(f"piece_{number}", partial(_ask, lm, task, block))
        scored.update({question.row_id: tuple(score) for question, score in zip(piece, scores, strict=True)})
    reasons = [scored[question.row_id][1] for question in drawn]
    columns = {
        "row_id": [question.row_id for question in drawn],
        "score": [scored[question.row_id][0] for question in drawn],
        "not_scored": reasons,
        "category": [question.category for question in drawn],
        "chance": [chance_score(block.task, block.scored_by, question.doc) for question in drawn],
    }
    notes = {
        "metric": block.scored_by,
        "few_shot": block.shots,
        "rows": len(drawn),
        "not_scored": {reason: reasons.count(reason) for reason in set(reasons) if reason},
        "examples_left_out": len(examples) - len(usable),
        "lm_eval": version("lm_eval"),
    }
    return pa.table(columns, schema=CAPABILITY), notes


def harness_task(
    block: CapabilityBlock, name: str, questions: Sequence[Question], examples: Sequence[Question]
) -> Task:
    """Return the harness's task `name` with these questions, and with the examples of their category."""
    harness = HARNESS[block.task, block.scored_by]
    tasks = Path(lm_eval.tasks.__file__).parent
    manager = TaskManager(include_defaults=False, include_path=str(tasks / harness.folder) if harness.folder else None)
    if harness.folder and name not in manager.all_subtasks:
        raise DataError(f"task '{block.task}': the harness has no '{name}'.{likely_typo(name, manager.all_subtasks)}")
    shown = _shown(block, harness, questions[0].category, examples)
    data = {"questions": [question.doc for question in questions], **({"examples": shown} if shown else {})}
    changes: dict[str, Any] = {
        "task": name,
        "custom_dataset": lambda **_: DatasetDict({split: Dataset.from_list(rows) for split, rows in data.items()}),
        "training_split": None,
        "validation_split": None,
        "test_split": "questions",
        "num_fewshot": block.shots,
        **({} if harness.folder else _MULTIPLE_CHOICE),
    }
    if shown:  # the same examples for every question, so that neither order nor `limit` changes a prompt
        changes |= {"fewshot_split": "examples", "fewshot_config": {"sampler": "first_n"}}
    elif block.task not in BUILT_IN_SHOTS:
        changes |= {"fewshot_split": None}
    # A dict modifies a task of the harness only inside a group; alone it replaces the task.
    (task,) = manager.load({"group": _GROUP, "task": [changes]} if harness.folder else changes)["tasks"].values()
    if block.max_new_tokens is not None:
        task.set_config(key="generation_kwargs", value={"max_gen_toks": block.max_new_tokens}, update=True)
    return task


def _shown(
    block: CapabilityBlock, harness: HarnessTask, category: str, examples: Sequence[Question]
) -> list[dict[str, Any]]:
    """Return the worked examples of a category, or of all categories if the harness has one task for all."""
    per_category = "{category}" in harness.name
    matching = [example.doc for example in examples if not per_category or example.category == category]
    if block.task not in BUILT_IN_SHOTS and len(matching) < block.shots:
        of = f" of '{category}'" if per_category else ""
        raise DataError(
            f"task '{block.task}': few_shot is {block.shots}, but there are {len(matching)} examples{of} that are "
            "not questions. Name a file with the key `examples`, or lower `few_shot`."
        )
    return matching[: block.shots]


def _pieces(block: CapabilityBlock, questions: Sequence[Question]) -> Iterator[tuple[str, list[Question]]]:
    """Yield name of the harness task and its questions, at most `_PIECE` questions at a time."""
    name = HARNESS[block.task, block.scored_by].name
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(name.format(category=question.category), []).append(question)
    for group, members in groups.items():
        for start in range(0, len(members), _PIECE):
            yield group, members[start : start + _PIECE]


def _ask(lm: HFLM, task: Task, block: CapabilityBlock) -> list[tuple[float | None, str | None]]:
    """Return (score, None) or (None, reason) for each question of a task."""
    harness = HARNESS[block.task, block.scored_by]
    room = _room(lm, task)
    result = evaluate(
        lm=lm,
        task_dict={"tasks": {task.task_name: task}, "groups": {}, "group_map": {}},
        bootstrap_iters=0,
        apply_chat_template=block.chat_template,
        fewshot_as_multiturn=True,
    )
    samples = [sample for sample in result["samples"][task.task_name] if sample["filter"] == harness.filter]
    return [_scored(lm, sample, harness.score, room) for sample in sorted(samples, key=lambda s: s["doc_id"])]


def _room(lm: HFLM, task: Task) -> int:
    """Return the length of the longest prompt that the harness does not truncate, in tokens."""
    if task.OUTPUT_TYPE != "generate_until":
        return lm.max_length + 1  # includes the answer, whose last token is predicted but not an input
    longest = task.config.generation_kwargs.get("max_gen_toks", lm.max_gen_toks)
    if longest >= lm.max_length:
        raise ModelError(
            f"answers of {longest} tokens leave no room for a question in a context of {lm.max_length} tokens; "
            "lower `max_new_tokens`"
        )
    return lm.max_length - longest


def _scored(lm: HFLM, sample: Mapping[str, Any], key: str, room: int) -> tuple[float | None, str | None]:
    # Both kinds of request begin with the prompt, followed by an answer (comparison) or settings (generation).
    texts = ["".join(part for part in request if isinstance(part, str)) for request in sample["arguments"]]
    if max(len(lm.tok_encode(text)) for text in texts) > room:
        return None, TOO_LONG
    score = float(sample[key])
    return (score, None) if score == score else (None, f"the score is {score}")
