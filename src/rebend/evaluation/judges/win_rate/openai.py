"""A win-rate judge at an OpenAI-compatible address; it compares each pair of answers in both orders, or in one.

Source: arXiv:2406.05954, section 5.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace

from rebend.config.judges import OpenAIJudgeBlock
from rebend.evaluation.judges.client import JudgeClient
from rebend.evaluation.judges.costs import Spent
from rebend.evaluation.judges.replies import Form, Reply
from rebend.evaluation.judges.win_rate.prompt import FORMS, user_text
from rebend.evaluation.judges.win_rate.verdict import ComparedRow, JudgeInputs, Judgement, combine, compare
from rebend.models.chat import dialogue_text

_BLANK = re.compile(r"\{(prompt|answer1|answer2)\}")


def judge(
    settings: OpenAIJudgeBlock, rows: Sequence[ComparedRow], inputs: JudgeInputs
) -> tuple[list[Judgement], Spent]:
    """Return the verdict on each row, and the costs of this run. Replies are stored in the store of `inputs`.

    Raises `JudgeError` before the first request if the estimate exceeds a cap; later if the address refuses all
    requests or answers none.
    """
    client = JudgeClient(settings, form_of(settings), inputs.store)
    both = settings.orders == "both"
    asked = [(row, first) for row in rows for first in ((True, False) if both else (response_is_first(settings, row),))]
    replies = client.ask_all([_question(settings, *pair) for pair in asked])
    if both:
        return [_judgement(*pair) for pair in zip(replies[::2], replies[1::2], strict=True)], client.spent
    first = [response_first for _, response_first in asked]
    return [_one_order(*pair) for pair in zip(replies, first, strict=True)], client.spent


def form_of(settings: OpenAIJudgeBlock) -> Form:
    """Return the form of the replies, with the block's own system message if it has one."""
    form = FORMS[settings.form]
    return form if settings.system is None else replace(form, system=settings.system)


def response_is_first(settings: OpenAIJudgeBlock, row: ComparedRow) -> bool:
    """Return whether the judge reads the response before the reference: a coin per row, from `seed` and row id."""
    return hashlib.sha256(f"{settings.seed}/{row['row_id']}".encode()).digest()[0] % 2 == 0


def _question(settings: OpenAIJudgeBlock, row: ComparedRow, response_first: bool) -> str:
    answers = (row["response"], row["reference"]) if response_first else (row["reference"], row["response"])
    prompt = dialogue_text(row["messages"])
    if settings.question is None:
        return user_text(prompt, *answers)
    texts = {"prompt": prompt, "answer1": answers[0], "answer2": answers[1]}
    return _BLANK.sub(lambda blank: texts[blank[1]], settings.question)


def _one_order(reply: Reply, response_first: bool) -> Judgement:
    """Return the verdict of a reply in one order, or its state."""
    kept = {"replies": [reply.text], "tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
    if reply.marks is None:
        return {**kept, "state": reply.state, "not_scored": f"{reply.state}: {reply.detail}"}
    response, reference = reply.marks if response_first else reply.marks[::-1]
    verdict = compare(response, reference)
    marks = {"response_marks": [response], "reference_marks": [reference]}
    return {**kept, **marks, "verdict": verdict, "state": verdict}


def _judgement(response_first: Reply, response_second: Reply) -> Judgement:
    """Combine the replies of both orders; if a reply has no marks, the row has the state of the first such reply."""
    pair = (response_first, response_second)
    kept = {
        "replies": [reply.text for reply in pair],
        "tokens_in": sum(reply.tokens_in for reply in pair),
        "tokens_out": sum(reply.tokens_out for reply in pair),
    }
    if response_first.marks is None or response_second.marks is None:
        failed = response_first if response_first.marks is None else response_second
        return {**kept, "state": failed.state, "not_scored": f"{failed.state}: {failed.detail}"}
    response, reference = zip(response_first.marks, response_second.marks[::-1], strict=True)
    verdict = combine(compare(response[0], reference[0]), compare(response[1], reference[1]))
    marks = {"response_marks": list(response), "reference_marks": list(reference)}
    return {**kept, **marks, "verdict": verdict, "state": verdict}
