"""Perplexity of answers: against a plain loop over transformers, which tokens count, and what is not scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rebend.errors import DataError
from rebend.evaluation.perplexity import score_perplexity
from rebend.io.chunks import ChunkStore
from rebend.io.schemas import ATTEMPT_SCORES, COMPLETIONS, PROMPTS, RESPONSES, SCORES
from rebend.models.chat import prompt_text
from rebend.models.likelihood import nll
from tests.helpers.plain_likelihood import WITH_BOS, WITHOUT_BOS, WORDS, mean_nll, random_policy

ENDS = {WITH_BOS: "<|eot_id|>", WITHOUT_BOS: "<|im_end|>"}
ANSWERS = ["take hot water", "because it is, and so it is because it is so", "leaves", "why? why!", "it is", "zq xv"]


def prompts(n: int = len(ANSWERS)) -> pa.Table:
    """Return a data set of prompts; every second one is a dialogue of three turns."""
    asked = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "hello"}]
    lines = [
        {"row_id": f"r{i}", "messages": [*asked, turn] if i % 2 else [turn], "group": "", "cluster": ""}
        for i in range(n)
        for turn in [{"role": "user", "content": f"{WORDS[i % len(WORDS)]} {i}"}]
    ]
    return pa.Table.from_pylist(lines, PROMPTS)


def responses(*answers: tuple[str | None, str | None]) -> pa.Table:
    """Return responses with (text, finish)."""
    facts = {"n_tokens": 1, "edit_norm": 0.0}
    lines = [{"row_id": f"r{i}", "response": a, "finish": end, **facts} for i, (a, end) in enumerate(answers)]
    return pa.Table.from_pylist(lines, RESPONSES)


def completion(row: int, attempt: int, text: str, prefill: str = "", finish: str = "eos") -> dict[str, Any]:
    facts = {"n_tokens": 1, "edit_norm": 0.0, "finish": finish}
    return {"row_id": f"r{row}", "response": prefill + text, "attempt": attempt, "prefill": prefill, **facts}


def prompt_of(tokenizer: Any, row: int) -> str:
    return prompt_text(tokenizer, prompts()["messages"].to_pylist()[row])


@pytest.mark.parametrize("shape", [WITH_BOS, WITHOUT_BOS])
def test_scores_equal_a_plain_loop_over_transformers(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of several lengths; an answer that was cut has no end token, one that ended has the template's."""
    monkeypatch.setattr(nll, "BATCH_TOKENS", 150)
    policy = random_policy(shape)
    finishes = ["eos", "length", "eos", "turn", "length", "eos"]
    table, notes = score_perplexity(policy, prompts(), responses(*zip(ANSWERS, finishes, strict=True)))
    expected = [
        mean_nll(policy, prompt_of(policy.tokenizer, i), answer + (ENDS[shape] if finish == "eos" else ""))
        for i, (answer, finish) in enumerate(zip(ANSWERS, finishes, strict=True))
    ]
    assert table.schema == SCORES and table["row_id"].to_pylist() == [f"r{i}" for i in range(6)]
    assert table["score"].to_pylist() == pytest.approx(expected, rel=1e-5)
    n_tokens = [len(policy.tokenizer(answer)["input_ids"]) for answer in ANSWERS]
    assert notes == {"tokens": sum(n_tokens) + finishes.count("eos")}


@pytest.mark.parametrize("shape", [WITH_BOS, WITHOUT_BOS])
def test_of_a_completion_the_prefill_is_given_and_not_scored(shape: str) -> None:
    policy = random_policy(shape)
    lines = [completion(0, 0, " take tea", "hot water:"), completion(0, 1, " because", "hot water:", finish="length")]
    table, _ = score_perplexity(policy, prompts(), pa.Table.from_pylist(lines, COMPLETIONS))
    before = prompt_of(policy.tokenizer, 0) + "hot water:"
    assert table.schema == ATTEMPT_SCORES and table["attempt"].to_pylist() == [0, 1]
    expected = [mean_nll(policy, before, " take tea" + ENDS[shape]), mean_nll(policy, before, " because")]
    assert table["score"].to_pylist() == pytest.approx(expected, rel=1e-5)


def test_empty_missing_and_too_long_answers_have_a_reason() -> None:
    policy = random_policy(WITHOUT_BOS, context=64)
    table, _ = score_perplexity(
        policy, prompts(), responses((None, None), ("", "eos"), (" \n", "eos"), ("tea " * 60, "length"), ("tea", "eos"))
    )
    assert table["not_scored"].to_pylist() == [
        "no response", "the answer is empty", "the answer is empty",
        "prompt and answer do not fit the model's context", None,
    ]  # fmt: skip
    assert [score is None for score in table["score"].to_pylist()] == [True, True, True, True, False]


def test_a_model_prefers_its_own_greedy_text_to_random_text() -> None:
    policy = random_policy(WITHOUT_BOS)
    ids = policy.tokenizer(prompt_of(policy.tokenizer, 0), add_special_tokens=False, return_tensors="pt")["input_ids"]
    output = policy.model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    own = policy.tokenizer.decode(output, skip_special_tokens=True)
    (liked,), (other,) = (
        score_perplexity(policy, prompts(), responses((text, "length")))[0]["score"].to_pylist()
        for text in (own, "zq xv kj wq")
    )
    assert liked < other - 0.5


def test_scores_do_not_depend_on_batches_or_on_the_order_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = random_policy(WITH_BOS)
    answers = responses(*((answer, "eos") for answer in ANSWERS))
    whole = score_perplexity(policy, prompts(), answers)[0].to_pylist()
    monkeypatch.setattr(nll, "BATCH_TOKENS", 1)
    order = pa.array([3, 0, 5, 1, 4, 2])
    single = score_perplexity(policy, prompts(), answers.take(order))[0].to_pylist()
    assert [row["row_id"] for row in single] == [f"r{i}" for i in order.to_pylist()]
    alike = {row["row_id"]: row["score"] for row in whole}
    assert {row["row_id"]: row["score"] for row in single} == pytest.approx(alike, rel=1e-5)


def test_resumed_scoring_ends_in_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill after the first chunk: the second attempt computes only the others."""
    monkeypatch.setattr(nll, "BATCH_TOKENS", 1)
    monkeypatch.setattr(nll, "_BATCHES_PER_CHUNK", 2)
    policy, answers = random_policy(WITH_BOS), responses(*((answer, "eos") for answer in ANSWERS))
    made: list[int] = []

    def die() -> None:
        made.append(1)
        raise KeyboardInterrupt

    # `on_made` is called before the chunk is stored, so the second call stands for a kill in the second chunk
    store = ChunkStore(tmp_path, lambda: die() if made else made.append(0))
    with pytest.raises(KeyboardInterrupt):
        score_perplexity(policy, prompts(), answers, store)
    again: list[int] = []
    resumed = score_perplexity(policy, prompts(), answers, ChunkStore(tmp_path, lambda: again.append(1)))[0]
    assert len(again) == 2
    assert resumed.equals(score_perplexity(policy, prompts(), answers)[0])


def test_answers_of_another_data_set_are_refused() -> None:
    with pytest.raises(DataError, match="belong to no row of the data set"):
        score_perplexity(random_policy(WITH_BOS), prompts(1), responses(("a", "eos"), ("b", "eos")))
