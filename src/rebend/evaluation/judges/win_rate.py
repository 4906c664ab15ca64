"""Does a response beat the data set's preferred answer? (Win rate of arXiv:2406.05954, section 5.)

A win rate is wins / judged rows: a tie is no win, and a row that was not judged is in neither part.
States that are no verdict (refused, unreadable, error, or that something was missing) stand in `state`, with the
reason in `not_scored`. `world_rubric` and `reward_model` are proxies for a judge and are named so where reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rebend.config.judges import JudgeBlock, OpenAIJudgeBlock, RewardModelJudgeBlock
from rebend.errors import JudgeError
from rebend.evaluation.judges.client import JudgeClient
from rebend.evaluation.judges.costs import Spent
from rebend.evaluation.judges.replies import Reply
from rebend.evaluation.judges.win_rate_prompt import FORMS, user_text
from rebend.evaluation.judges.win_rate_statistics import JUDGED, MISSING, combine, compare
from rebend.io.scores import NO_RESPONSE
from rebend.models.chat import dialogue_text, last_user_text

Row = Mapping[str, Any]
Scores = Mapping[str, float | None]


def judge_wins(
    settings: JudgeBlock,
    rows: Sequence[Row],
    store: str | Path,
    rewards: Scores | None = None,
    reference_rewards: Scores | None = None,
) -> tuple[pa.Table, Spent]:
    """Return a table of schema JUDGED for the drawn rows (see `draw`), in their order, and what was paid just now.

    Each row has `row_id`, `messages`, `reference` and `response`. `store` is the folder that keeps a judge's
    replies, whoever asks; the two score maps (by row_id) are for the method `reward_model`.
    """
    drawn = draw(rows, settings.sample, settings.seed)
    spent = Spent()
    if isinstance(settings, OpenAIJudgeBlock):
        client = JudgeClient(settings, FORMS[settings.form], store)
        found, spent = _by_client(drawn, client), client.spent
    elif isinstance(settings, RewardModelJudgeBlock):
        if rewards is None or reference_rewards is None:
            raise JudgeError("the judge `reward_model` needs the rewards of responses and of references")
        found = [_by_scores(row, rewards.get(row["row_id"]), reference_rewards.get(row["row_id"])) for row in drawn]
    else:
        found = _by_rubric(drawn)
    lines = [_line(*pair) for pair in zip(drawn, found, strict=True)]
    return pa.Table.from_pylist(lines, schema=JUDGED), spent


def described(settings: JudgeBlock) -> dict[str, str]:
    """Return what a file of verdicts says of its judge: method, model, form and prices, "" where there is none."""
    asked = settings if isinstance(settings, OpenAIJudgeBlock) else None
    prices = (asked.price_in, asked.price_out) if asked else (None, None)
    return {
        "judge": settings.method,
        "model": asked.model if asked else "",
        "form": asked.form if asked else "",
        "price_in": "" if prices[0] is None else repr(prices[0]),
        "price_out": "" if prices[1] is None else repr(prices[1]),
    }


def draw(rows: Sequence[Row], sample: int | None, seed: int) -> list[Row]:
    """Return `sample` rows (all if None or there are no more), the same ones in whatever order they come.

    Every control is judged on the same prompts, because the draw depends on row ids and seed alone.
    """
    if sample is None or sample >= len(rows):
        return list(rows)
    ids = sorted(row["row_id"] for row in rows)
    chosen = {ids[i] for i in np.random.default_rng(seed).choice(len(ids), size=sample, replace=False)}
    return [row for row in rows if row["row_id"] in chosen]


def _by_rubric(rows: Sequence[Row]) -> list[dict[str, Any]]:
    from rebend.data.tiny_world import rubric

    found = []
    for row in rows:
        if (reason := _gap(row)) is not None:
            found.append(_missing(reason))
            continue
        prompt = last_user_text(row["messages"])
        found.append(_by_scores(row, rubric(prompt, row["response"]), rubric(prompt, row["reference"])))
    return found


def _by_scores(row: Row, ours: float | None, theirs: float | None) -> dict[str, Any]:
    """The verdict of a proxy that gives each of the two texts one number, whatever their order."""
    if (reason := _gap(row)) is not None:
        return _missing(reason)
    if ours is None or theirs is None:
        return _missing("no reward of the response" if ours is None else "no reward of the reference")
    verdict = compare(ours, theirs)
    return {"verdict": verdict, "state": verdict, "response_marks": [ours], "reference_marks": [theirs]}


def _by_client(rows: Sequence[Row], client: JudgeClient) -> list[dict[str, Any]]:
    """Ask about each row in both orders."""
    asked = [row for row in rows if _gap(row) is None]
    questions = []
    for row in asked:
        prompt = dialogue_text(row["messages"])
        questions.append(user_text(prompt, row["response"], row["reference"]))
        questions.append(user_text(prompt, row["reference"], row["response"]))
    replies = iter(client.ask_all(questions))
    return [_by_replies(next(replies), next(replies)) if (gap := _gap(row)) is None else _missing(gap) for row in rows]


def _by_replies(ours_first: Reply, ours_second: Reply) -> dict[str, Any]:
    pair = (ours_first, ours_second)
    kept = {
        "replies": [reply.text for reply in pair],
        "tokens_in": sum(reply.tokens_in for reply in pair),
        "tokens_out": sum(reply.tokens_out for reply in pair),
    }
    if ours_first.marks is None or ours_second.marks is None:
        worse = ours_first if ours_first.marks is None else ours_second
        return {**kept, "state": worse.state, "not_scored": f"{worse.state}: {worse.detail}"}
    ours, theirs = zip(ours_first.marks, ours_second.marks[::-1], strict=True)
    verdict = combine(compare(ours[0], theirs[0]), compare(ours[1], theirs[1]))
    marks = {"response_marks": list(ours), "reference_marks": list(theirs)}
    return {**kept, **marks, "verdict": verdict, "state": verdict}


def _gap(row: Row) -> str | None:
    """What a comparison lacks, if anything."""
    return NO_RESPONSE if row["response"] is None else "no reference" if row["reference"] is None else None


def _missing(reason: str) -> dict[str, Any]:
    return {"state": MISSING, "not_scored": reason}


def _line(row: Row, found: Mapping[str, Any]) -> dict[str, Any]:
    lengths = {f"{name}_length": None if row[name] is None else len(row[name]) for name in ("response", "reference")}
    return {"row_id": row["row_id"], **lengths, **found}
