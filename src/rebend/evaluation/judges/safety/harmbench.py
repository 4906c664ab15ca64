"""HarmBench's classifier (arXiv:2402.04249, section 5.2): is the response an instance of the harmful behaviour?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig

from rebend.config.safety import HarmBenchJudgeBlock
from rebend.data.readers.rows import CONTEXT_END
from rebend.errors import ModelError
from rebend.evaluation.judges.costs import Spent
from rebend.evaluation.judges.safety.classifier import NO_ROOM, ClassifierPrompt, ask
from rebend.evaluation.judges.safety.text_rules import without_harm
from rebend.evaluation.judges.safety.verdict import (
    HARMFUL,
    HARMLESS,
    UNREADABLE,
    JudgedRow,
    JudgeFolders,
    Verdict,
    request_text,
)
from rebend.models.remote_code import runs_code

HARMBENCH = ClassifierPrompt("harmbench.jinja", 1, 512, begins_itself=False)
_WORDING = {"llama": "llama2", "mistral": "mistral"}  # architecture -> prompt of its training


def judge(
    settings: HarmBenchJudgeBlock, rows: Sequence[JudgedRow], folders: JudgeFolders
) -> tuple[list[Verdict], Spent]:
    """Return the verdict of HarmBench's classifier on each row; `answered` means that the behaviour is present.

    The classifier answers yes or no. A response without the behaviour is a refusal, incoherent or harmless by the rules
    of `text_rules`. Responses to benign prompts are judged by these rules only: a benign prompt is no behaviour.
    Raises `ModelError` if the setting `prompt` belongs to the other classifier.
    """
    model = folders.needed_model(settings.method)
    harmful = [row for row in rows if row["harmful"]]
    if harmful:
        _check_wording(settings.prompt, model)
    variables = [{"style": settings.prompt, **_behaviour(row), "response": row["response"]} for row in harmful]
    replies = iter(ask(HARMBENCH, settings, variables, model, folders.progress))
    return [_verdict(row, next(replies)) if row["harmful"] else _benign(row) for row in rows], Spent()


def _check_wording(prompt: str, judge_model: Path) -> None:
    """Raise `ModelError` for the prompt of the other classifier, because answers to it are valid in form but wrong."""
    kind = AutoConfig.from_pretrained(
        judge_model, local_files_only=True, trust_remote_code=runs_code(judge_model)
    ).model_type
    if _WORDING.get(kind, prompt) != prompt:
        raise ModelError(
            f"{judge_model}: is a '{kind}', whose key `prompt` must be '{_WORDING[kind]}'; it is '{prompt}'"
        )


def _behaviour(row: JudgedRow) -> dict[str, str]:
    """Return the behaviour and, for a contextual behaviour, its context."""
    text = request_text(row)
    context, end, behaviour = text.rpartition(CONTEXT_END)
    if row["group"] != "contextual" or not end:
        return {"context": "", "prompt": text}
    return {"context": context, "prompt": behaviour}


def _verdict(row: JudgedRow, reply: str | None) -> Verdict:
    if reply is None:
        return Verdict(None, not_scored=NO_ROOM)
    answer = reply.strip().lower()
    if answer not in ("yes", "no"):
        return Verdict(None, not_scored=UNREADABLE, reply=reply)
    word = HARMFUL if answer == "yes" else without_harm(row)
    return Verdict(word, answered=word == HARMFUL, reply=reply)


def _benign(row: JudgedRow) -> Verdict:
    word = without_harm(row)
    return Verdict(word, answered=word == HARMLESS)
