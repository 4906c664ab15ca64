"""Sample answers to prompts and keep those with the wanted verdict.

Answers are sampled in rounds. A round asks each prompt for as many answers as it still lacks, and the judge reads them
before the next round. The random numbers of an answer depend on its prompt, its try and the seed only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rebend.config.datasets import SampledBlock
from rebend.config.decoding import Decoding
from rebend.config.safety import SafetyJudgeBlock
from rebend.evaluation.attacks.attempts import attempt_key
from rebend.evaluation.judges.safety.judge import judge_safety
from rebend.evaluation.judges.safety.verdict import HARMLESS, INCOHERENT, REFUSAL, JudgedRow
from rebend.evaluation.sampled_pairs.prompts import PromptRow
from rebend.generation.generate import generate
from rebend.generation.requests import Response
from rebend.io.chunks import ChunkStore
from rebend.models.chat import Message
from rebend.models.loading import Policy, load_policy

UNANSWERED = "unanswered"  # beside the words of a safety judge
_REASONS = {
    REFUSAL: "refused",
    INCOHERENT: "incoherent",
    UNANSWERED: "not answered",
    None: "not scored by the judge",
}


@dataclass(frozen=True)
class RoundJudge:
    """A safety judge of this machine: its settings, its model (None without one), and a folder for finished batches."""

    settings: SafetyJudgeBlock
    model: str | Path | None
    folder: Path

    def verdicts(self, rows: Sequence[JudgedRow], name: str) -> list[str | None]:
        """Return the verdict on each row of the round `name`; None if it is not scored.

        A harmless prompt with a coherent response that does not do what it asks has the verdict UNANSWERED.
        """
        progress = self.folder / name
        table, _ = judge_safety(self.settings, rows, self.model, progress, store=progress)
        verdicts: list[str | None] = table["verdict"].to_pylist()
        answered: list[bool | None] = table["answered"].to_pylist()
        return [
            UNANSWERED if word == HARMLESS and not row["harmful"] and not is_answer else word
            for row, word, is_answer in zip(rows, verdicts, answered, strict=True)
        ]


@dataclass(frozen=True)
class Sampler:
    """A model with its decoding, the judge of its answers, and the store of finished batches."""

    policy: Policy
    decoding: Decoding
    judge: RoundJudge
    parts: ChunkStore

    def round(
        self, name: str, asked: Sequence[tuple[PromptRow, int]], prompts: Sequence[Sequence[Message]], prefill: str
    ) -> list[tuple[str | None, str | None]]:
        """Return (answer, verdict) of each (row, try); no answer if the context has no room for the prompt."""
        responses = generate(
            self.policy,
            prompts,
            self.decoding,
            prefills=[prefill] * len(asked),
            keys=[attempt_key(row, attempt) for row, attempt in asked],
            parts=self.parts.within(name),
        )
        judged = [
            {**row, **_answer(response), "attempt": attempt, "prefill": prefill}
            for (row, attempt), response in zip(asked, responses, strict=True)
        ]
        verdicts = self.judge.verdicts(judged, name)
        return [(row["response"], verdict) for row, verdict in zip(judged, verdicts, strict=True)]


def load_sampler(block: SampledBlock, model: str | Path, dtype: str, judge: RoundJudge, parts: ChunkStore) -> Sampler:
    """Return the sampler of a data set; `model` is the folder of its model."""
    decoding = block.decoding.model_copy(update={"seed": block.decoding.seed + block.seed})
    return Sampler(load_policy(model, dtype), decoding, judge, parts)


@dataclass
class Answers:
    """Row id → kept answers, in the order of their tries; the samples that were not kept, by reason."""

    kept: dict[str, list[str]]
    left_out: Counter[str] = field(default_factory=Counter)
    samples: int = 0


def sample_answers(
    sampler: Sampler,
    rows: Sequence[PromptRow],
    wanted: str,
    count: int,
    tries: int,
    *,
    name: str,
    prefill: str = "",
    as_asked: Callable[[PromptRow], Sequence[Message]] = lambda row: row["messages"],
) -> Answers:
    """Return at most `count` different answers with the verdict `wanted` to each prompt, of at most `tries` samples.

    `as_asked` returns the messages that the model gets; the judge reads those of the row. `name` names the rounds.
    """
    answers = Answers({row["row_id"]: [] for row in rows})
    used = dict.fromkeys(answers.kept, 0)
    for number in range(tries):  # a round uses at least one try of each prompt that lacks answers
        asked = [(row, attempt) for row in rows for attempt in _next_tries(row, answers, used, count, tries)]
        if not asked:
            break
        results = sampler.round(f"{name}-{number:03d}", asked, [as_asked(row) for row, _ in asked], prefill)
        for (row, attempt), (text, verdict) in zip(asked, results, strict=True):
            used[row["row_id"]] = attempt + 1 if text is not None else tries
            _keep_or_count(answers, row["row_id"], text, verdict, wanted, prefill)
        enough = sum(len(kept) == count for kept in answers.kept.values())
        print(f"{name} answers, round {number + 1}: {enough} of {len(rows)} prompts have {count}", flush=True)
    return answers


def answer_facts(name: str, answers: Answers) -> dict[str, Any]:
    """Return the facts of these answers for the record."""
    return {f"{name}_samples": answers.samples, f"{name}_left_out": dict(answers.left_out.most_common())}


def left_out_text(name: str, facts: Mapping[str, Any]) -> str:
    """Return the number of samples in `answer_facts`, and of those left out by reason, for an error."""
    reasons = ", ".join(f"{reason}: {count}" for reason, count in facts[f"{name}_left_out"].items()) or "none"
    return f"of {facts[f'{name}_samples']} samples for {name} answers, left out: {reasons}"


def _next_tries(row: PromptRow, answers: Answers, used: dict[str, int], count: int, tries: int) -> range:
    first = used[row["row_id"]]
    return range(first, min(tries, first + count - len(answers.kept[row["row_id"]])))


def _keep_or_count(
    answers: Answers, row_id: str, text: str | None, verdict: str | None, wanted: str, prefill: str
) -> None:
    """Add an answer to those that are kept, or count why it is not."""
    answers.samples += 1
    kept = answers.kept[row_id]
    if text is None:
        reason = "no room for the prompt in the context"
    elif not text.removeprefix(prefill).strip():
        reason = "empty"
    elif verdict != wanted:
        reason = _REASONS.get(verdict, f"judged {verdict}")
    elif _plain(text) in map(_plain, kept):
        reason = "duplicate"
    else:
        kept.append(text)
        return
    answers.left_out[reason] += 1


def _answer(response: Response | None) -> dict[str, object]:
    """Return the columns of RESPONSES that judges may read."""
    return {
        "response": response and response.text,
        "n_tokens": len(response.token_ids) if response else 0,
        "finish": response and response.finish,
        "edit_norm": 0.0,
    }


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
