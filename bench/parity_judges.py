"""Judges: replies of the win-rate judge, and the question and replies of HarmBench's classifier."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import parity_ours_texts as ours
from parity_code import Released, stand_in
from parity_item import Sides, item

JUDGE = "gpt4_eval.py"
REPLIES = [
    "8 9\nbecause", "9 8\nbecause", "7 7\nboth", "10 1", "8.5 9\nhalf", "8,9\ncomma", "8, 9\ncomma", "8 / 9\nslash",
    "8  9\ntwo spaces", " 8 9\nleading", "\n8 9\nempty line", "8\t9\ntab", "**8 9**\nbold", "`8 9`\ncode",
    "Scores: 8 9\nwords", "Assistant 1: 8\nAssistant 2: 9", "8", "", "I cannot judge this.", "8 9 7\nthree",
    "11 3\nhigh", "-1 5\nnegative", "0 5\nzero", "1e1 5\nexponent", "nan 5\nnan", "inf 5\ninf", "8 9 \ntrailing",
    "eight nine\nwords", "error", "8 9",
]  # fmt: skip


def outcome(marks: Sequence[float] | None) -> str:
    """Return win, tie or loss of the first answer; "not read" without marks."""
    if marks is None:
        return "not read"
    return (
        "win" if marks[0] > marks[1] else "tie" if marks[0] == marks[1] else "loss" if marks[0] < marks[1] else "none"
    )


@item(
    "recontrol",
    "Replies of the win-rate judge, 30 awkward ones: win, tie or loss",
    remark="there the first line must be two numbers and one space, or it is a tie; ours also reads commas, slashes, "
    "bold and other spaces, and does not score a reply without two marks from 1 to 10",
)
def replies(sides: Sides) -> tuple[Any, Any]:
    """Two marks on the first line."""
    released = []
    for reply in REPLIES:
        given = {"content": reply, "side": 0, "print": lambda *_: None}
        space = sides.released.run(JUDGE, "        try:", "score1, score2 = 0, 0", given)
        released.append(outcome((space["score1"], space["score2"])))
    return released, [outcome(ours.read_marks(reply)) for reply in REPLIES]


@item(
    "recontrol",
    "Wording of the win-rate judge",
    remark="ours has words of its own: nothing is copied here; a judge block takes others",
)
def judge_wording(sides: Sides) -> tuple[Any, Any]:
    """System and user message."""
    code = sides.released.take(JUDGE, ["SYSTEM_PROMPT", "USER_PROMPT"], {})
    user = code.USER_PROMPT.format(question="q", answer1="a", answer2="b")
    return [code.SYSTEM_PROMPT, user], [ours.SYSTEM, ours.user_text("q", "a", "b")]


CLASSIFIED = [("Write a poem.", "", "No."), ("Do it.", "A page about tea.\n\nMore.", "Yes,\n\nhere it is.")]


@item("repbend", "HarmBench's classifier: its question")
def classifier_question(sides: Sides) -> tuple[Any, Any]:
    """A standard behaviour and a contextual one."""
    asked: list[str] = []
    _judged(sides.released, ["no", "no"], asked)
    return asked, [ours.classifier_prompt(*case) for case in CLASSIFIED]


@item(
    "repbend",
    "HarmBench's classifier: rate of `yes`, `no`, and a reply that is neither",
    1e-9,
    "a reply that is neither is -1 in the mean there, and not scored here",
)
def classifier_replies(sides: Sides) -> tuple[Any, Any]:
    """The mean over scored replies; the released one counts -1 as a score."""
    given = ["yes", "no", "Yes", "maybe"]
    released = _judged(sides.released, given, [])
    return released, ours.classifier_rate(given)


def _judged(released: Released, replies: Sequence[str], asked: list[str]) -> float:
    """Return the score that the released judge gives for these replies; its questions go into `asked`."""
    stand_in("`vllm`", "not installed: the classifier's replies are given")

    def generate(inputs: list[str], *_: Any, **__: Any) -> list[Any]:
        asked.extend(inputs)
        return [SimpleNamespace(outputs=[SimpleNamespace(text=reply)]) for reply in replies]

    code = released.take("safety_evaluation/judge.py", ["JUDGE_PROMPTS", "Judge"], {"np": np})
    judge = object.__new__(code.Judge)
    judge.model, judge.sampling_params = SimpleNamespace(generate=generate), None
    cases = [CLASSIFIED[number % 2] for number in range(len(replies))]
    instances = [SimpleNamespace(behavior=b, context=c or None, generation=g, score=None) for b, c, g in cases]
    with contextlib.redirect_stdout(io.StringIO()):
        return float(judge.evaluate(instances))
