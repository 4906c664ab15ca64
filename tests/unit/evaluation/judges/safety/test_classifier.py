"""Judges that are classifiers: published prompts, batches, truncation, resuming."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rebend.evaluation.judges.safety import classifier
from rebend.evaluation.judges.safety.classifier import NO_ROOM, encode, fill
from rebend.evaluation.judges.safety.harmbench import HARMBENCH
from rebend.evaluation.judges.safety.wildguard import WILDGUARD
from rebend.generation.fixed_batches import generate_batch
from rebend.models.loading import load_policy
from tests.helpers.classifier_judges import harmbench, rows, wildguard, words
from tests.helpers.safety_rows import judged, row
from tests.helpers.small_judge import make_tokenizer

WORDINGS: dict[str, tuple[Any, dict[str, str]]] = {
    "7df059d0be017b501440af39748d456a36458cba4ad0e4bbd73edfe8dd444061": (
        HARMBENCH,
        {"style": "llama2", "context": "", "prompt": "{b}", "response": "{g}"},
    ),
    "21ec67de48aac5078aa6830dbb6e700e7bf742b07c55d70930173f362585b404": (
        HARMBENCH,
        {"style": "llama2", "context": "{c}", "prompt": "{b}", "response": "{g}"},
    ),
    "0cb5d2ce4e91bb7f89baabd2c7067660968e0294351940b3613f72190e4c5824": (
        HARMBENCH,
        {"style": "mistral", "context": "", "prompt": "{b}", "response": "{g}"},
    ),
    "e4e4596dc9678c67f571e85caddc1e7da3ccc76eeb520c3ce5ad02aca99f7c85": (
        HARMBENCH,
        {"style": "mistral", "context": "{c}", "prompt": "{b}", "response": "{g}"},
    ),
    "aacac819c16f79ae646cb3416961828c3a191c1d6ba17550b76b083f592fe002": (
        WILDGUARD,
        {"prompt": "{b}", "response": "{g}"},
    ),
}


@pytest.mark.parametrize("digest", WORDINGS)
def test_published_prompts_are_unchanged(digest: str) -> None:
    question, variables = WORDINGS[digest]
    assert hashlib.sha256(fill(question, variables).encode()).hexdigest() == digest


def test_prompts_contain_context_and_system_marks_of_each_model() -> None:
    alone = fill(HARMBENCH, {"style": "llama2", "context": "", "prompt": "B\nb", "response": "G {x}"})
    assert alone.startswith("[INST] <<SYS>>\nYou are a classifier") and alone.endswith("\n\nAnswer: [/INST]")
    assert 'or "no".\n<</SYS>>\n\n[BEHAVIOR]:\nB\nb\n\n[GENERATION]:\nG {x}\n\n---\nRules:\n- ' in alone
    after = fill(HARMBENCH, {"style": "mistral", "context": "C", "prompt": "B", "response": "G"})
    assert after.startswith("[INST] You are a classifier") and "<<SYS>>" not in after
    assert 'or "no".\n\n[CONTEXT]:\nC\n\n[BEHAVIOR]:\nB\n\n[GENERATION]:\nG\n\n---\nRules:\n' in after
    assert "behavior and context should be" in after and "behavior and context should be" not in alone
    guard = fill(WILDGUARD, {"prompt": "P", "response": "<b>&"})
    assert guard.startswith("<s><|user|>\n[INST] You are") and guard.endswith("Answers: [/INST]\n<|assistant|>\n")
    assert "Human user:\nP\n\nAI assistant:\n<b>&\n\n---\n" in guard


@pytest.mark.parametrize("make", [harmbench, wildguard])
def test_batch_size_and_padding_side_do_not_change_verdicts(
    judge: Path, tmp_path: Path, make: Callable[..., Any]
) -> None:
    right = shutil.copytree(judge, tmp_path / "right")
    make_tokenizer("right").save_pretrained(right)
    one = judged(make(batch_size=1), rows(), judge, tmp_path / "one")
    for folder, size in ((judge, 30), (right, 7)):
        assert judged(make(batch_size=size), rows(), folder, tmp_path / f"{size}").equals(one)


@pytest.mark.parametrize("make", [harmbench, wildguard])
def test_answer_in_an_unknown_form_is_not_scored(random_judge: Path, tmp_path: Path, make: Callable[..., Any]) -> None:
    table = judged(make(), rows(), random_judge, tmp_path)
    assert set(words(table)) == {None} and set(table["not_scored"].to_pylist()) == {"unreadable"}
    assert set(table["answered"].to_pylist()) == {None}
    assert all(text is not None for text in table["reply"].to_pylist())


def test_response_is_truncated_as_in_harmbench_and_to_fit_the_context(random_judge: Path) -> None:
    policy = load_policy(random_judge, chat=False)
    tokenizer = policy.tokenizer
    long = " turn" * 2000
    variables = {"style": "llama2", "context": "", "prompt": "B", "response": long}
    turn = tokenizer(" turn", add_special_tokens=False)["input_ids"]
    assert len(turn) == 1

    def kept(max_length: int, question: Any = HARMBENCH) -> tuple[int, int]:
        ids = encode(policy, question, max_length, variables)
        assert ids is not None and ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
        return ids.count(turn[0]), len(ids)

    assert kept(900)[0] == 511  # the first of 512 is the begin-of-text token
    count, length = kept(300)
    assert 0 < count < 300 and length == 300 - HARMBENCH.new_tokens
    assert kept(5000, WILDGUARD)[1] == 1024 - WILDGUARD.new_tokens  # limited by the context of the model
    assert encode(policy, HARMBENCH, 40, variables) is None


def test_prompt_without_room_for_the_response_is_not_scored(random_judge: Path, tmp_path: Path) -> None:
    given = [row("Glue it.", prompt="turn " * 1500, row_id="long"), row("Glue it.", row_id="short")]
    table = judged(wildguard(), given, random_judge, tmp_path)
    assert table["not_scored"].to_pylist() == [NO_ROOM, "unreadable"]


def test_finished_batches_are_not_decoded_again_after_a_kill(judge: Path, tmp_path: Path, monkeypatch: Any) -> None:
    expected = judged(harmbench(), rows(), judge, tmp_path / "undisturbed")
    calls = []

    def stopping(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return generate_batch(*given)

    monkeypatch.setattr(classifier, "generate_batch", stopping)
    with pytest.raises(KeyboardInterrupt):
        judged(harmbench(), rows(), judge, tmp_path / "kept")
    assert judged(harmbench(), rows(), judge, tmp_path / "kept").equals(expected)
    assert len(calls) == 4 + 8 - 3  # 8 batches of 4, three of them stored
