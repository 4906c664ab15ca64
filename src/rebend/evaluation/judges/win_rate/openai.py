"""A win-rate judge at an OpenAI-compatible address; it compares each pair of answers in both orders.

Source: arXiv:2406.05954, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence

from rebend.config.judges import OpenAIJudgeBlock
from rebend.evaluation.judges.client import JudgeClient
from rebend.evaluation.judges.costs import Spent
from rebend.evaluation.judges.replies import Reply
from rebend.evaluation.judges.win_rate.prompt import FORMS, user_text
from rebend.evaluation.judges.win_rate.verdict import ComparedRow, JudgeInputs, Judgement, combine, compare
from rebend.models.chat import dialogue_text


def judge(
    settings: OpenAIJudgeBlock, rows: Sequence[ComparedRow], inputs: JudgeInputs
) -> tuple[list[Judgement], Spent]:
    """Return the verdict on each row, and the costs of this run. Replies are stored in the store of `inputs`.

    Raises `JudgeError` before the first request if the estimate exceeds a cap; later if the address refuses all
    requests or answers none.
    """
    client = JudgeClient(settings, FORMS[settings.form], inputs.store)
    questions = []
    for row in rows:
        prompt = dialogue_text(row["messages"])
        questions.append(user_text(prompt, row["response"], row["reference"]))
        questions.append(user_text(prompt, row["reference"], row["response"]))
    replies = client.ask_all(questions)
    return [_judgement(*pair) for pair in zip(replies[::2], replies[1::2], strict=True)], client.spent


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
