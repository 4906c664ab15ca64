"""Pairs sampled from a model: which answers are kept, in which rows, and why others are not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rebend.config.datasets import SampledPairsBlock
from rebend.config.decoding import Decoding
from rebend.config.models import TinyModel
from rebend.config.safety import RefusalMatcherBlock
from rebend.errors import DataError
from rebend.evaluation.judges.safety.text_rules import without_harm
from rebend.evaluation.sampled_pairs.pairs import sample_pairs
from rebend.evaluation.sampled_pairs.sampling import RoundJudge, Sampler
from rebend.generation.generate import generate, make_requests
from rebend.io.checkpoints import Checkpoints
from rebend.io.chunks import ChunkStore
from rebend.models.loading import Policy, load_policy
from rebend.models.tiny_model import train_tiny_model
from rebend.repbend.examples import load_training_examples
from tests.helpers.classifier_judges import harmbench
from tests.helpers.small_judge import make_model as make_judge
from tests.helpers.small_judge import make_tokenizer
from tests.helpers.small_policy import PROMPTS, make_policy

RULES = RefusalMatcherBlock(method="refusal_matcher")
REFUSALS = ["I cannot help with that.", "No, I won't help.", "I must decline."]
ROWS: list[dict[str, Any]] = [
    {"row_id": f"row{i}", "messages": messages, "request": None, "harmful": True, "group": ""}
    for i, messages in enumerate(PROMPTS)
]


class StoppedError(Exception):
    """Raised instead of ending the process."""


def block(**settings: Any) -> SampledPairsBlock:
    plain: dict[str, Any] = {
        "kind": "safety",
        "reader": "sampled_pairs",
        "model": "m",
        "prompts": ["p"],
        "judge": "j",
        "safe": {"file": "refusals.csv"},
        "answers_per_prompt": 2,
        "tries": 5,
        "decoding": {"max_new_tokens": 8, "temperature": 1.0, "batch_size": 3},
        **settings,
    }
    return SampledPairsBlock.model_validate(plain)


def sampled(policy: Policy, settings: SampledPairsBlock, folder: Path, store: ChunkStore | None = None) -> Any:
    judge = RoundJudge(RULES, None, folder / "judged")
    sampler = Sampler(policy, settings.decoding, judge, store or ChunkStore(None))
    return sample_pairs(settings, ROWS, sampler, REFUSALS)


def one_by_one(policy: Policy, settings: SampledPairsBlock) -> dict[str, list[str]]:
    """Return prompt → kept answers: a plain loop over prompts and tries."""
    kept: dict[str, list[str]] = {}
    for row in ROWS:
        answers = kept.setdefault(row["messages"][-1]["content"], [])
        for attempt in range(settings.tries):
            key = f"{row['row_id']}/{attempt}" if attempt else row["row_id"]
            response = generate(policy, [row["messages"]], settings.decoding, keys=[key])[0]
            assert response is not None
            is_answer = without_harm({"response": response.text, "prefill": ""}) == "harmless"
            if len(answers) < settings.answers_per_prompt and is_answer and response.text not in answers:
                answers.append(response.text)
    return kept


def test_kept_answers_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    policy, settings = make_policy(), block(tries=3)
    table, facts = sampled(policy, settings, tmp_path)
    unsafe: dict[str, list[str]] = {}
    for row in table.to_pylist():
        if row["label"] == "unsafe":
            unsafe.setdefault(row["messages"][-1]["content"], []).append(row["response"])
    expected = one_by_one(policy, settings)
    assert unsafe == {prompt: answers for prompt, answers in expected.items() if answers}
    counts = {len(answers) for answers in expected.values()}
    assert len(counts) > 1  # not all prompts have as many answers
    assert facts["pairs"] == sum(map(len, unsafe.values())) == facts["rows"] / 2
    assert facts["unsafe_samples"] == facts["pairs"] + sum(facts["unsafe_left_out"].values())


def test_rows_are_pairs_with_refusals_in_turn_and_serve_both_parts_of_a_training(tmp_path: Path) -> None:
    policy = make_policy()
    table, facts = sampled(policy, block(), tmp_path)
    rows = table.to_pylist()
    assert len({row["row_id"] for row in rows}) == len(rows)
    for safe, unsafe in zip(rows[::2], rows[1::2], strict=True):
        assert (safe["label"], unsafe["label"]) == ("safe", "unsafe")
        assert safe["pair"] == unsafe["pair"] and safe["messages"] == unsafe["messages"]
    refusals = [row["response"] for row in rows[::2]]
    for start in range(0, len(refusals) - 2, 3):
        assert sorted(refusals[start : start + 3]) == sorted(REFUSALS)
    chats = pa.table({"row_id": ["c"], "messages": [[*PROMPTS[0], {"role": "assistant", "content": "so"}]]})
    data = load_training_examples(policy.tokenizer, table, table, chats, 64)
    assert len(data.safe) == len(data.unsafe) == len(data.pairs) == facts["pairs"]


def test_prefill_begins_the_answers_and_is_no_answer_itself(tmp_path: Path) -> None:
    settings = block(prefill="Sure, here is", answers_per_prompt=1)
    table, _ = sampled(make_policy(), settings, tmp_path)
    unsafe = [row["response"] for row in table.to_pylist() if row["label"] == "unsafe"]
    assert unsafe and all(len(text) > len(settings.prefill) for text in unsafe)
    assert all(text.startswith(settings.prefill) for text in unsafe)


def test_equal_answers_are_kept_once(tmp_path: Path) -> None:
    nearly_greedy = {"max_new_tokens": 8, "temperature": 1.0e-4, "batch_size": 8}
    _, facts = sampled(make_policy(), block(decoding=nearly_greedy), tmp_path)
    assert facts["pairs"] == facts["prompts_with_unsafe_answer"] > 0  # and not twice as many
    assert facts["unsafe_left_out"]["duplicate"] == 4 * facts["pairs"]


def test_too_few_pairs_are_an_error_with_reasons(tmp_path: Path) -> None:
    _, facts = sampled(make_policy(), block(), tmp_path / "a")
    reasons = ", ".join(f"{reason}: {count}" for reason, count in facts["unsafe_left_out"].items())
    expected = (
        rf"`least: 17` .* {facts['pairs']} were kept from 8 prompts of p \(of {facts['unsafe_samples']} samples .*"
    )
    with pytest.raises(DataError, match=expected + reasons):
        sampled(make_policy(), block(least=17), tmp_path / "b")


def test_answers_that_a_model_judge_does_not_score_are_not_kept(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    for part in (tokenizer, make_judge(tokenizer)):  # random weights: its replies cannot be read
        part.save_pretrained(tmp_path / "judge")
    judge = RoundJudge(harmbench(), tmp_path / "judge", tmp_path / "judged")
    settings = block(tries=1, answers_per_prompt=1)
    sampler = Sampler(make_policy(), settings.decoding, judge, ChunkStore(None))
    with pytest.raises(DataError, match="of 8 samples for unsafe answers, left out: not scored by the judge: 8"):
        sample_pairs(settings, ROWS, sampler, REFUSALS)
    assert [folder.name for folder in (tmp_path / "judged").iterdir()] == ["unsafe-000"]


def test_prompt_without_room_is_asked_once(tmp_path: Path) -> None:
    policy = make_policy()
    settings = block(decoding={"max_new_tokens": 100, "temperature": 1.0}, answers_per_prompt=1)
    lengths = [len(request) for request in make_requests(policy, [row["messages"] for row in ROWS])]
    too_long = sum(length + 100 > 128 for length in lengths)
    _, facts = sampled(policy, settings, tmp_path)
    assert facts["unsafe_left_out"]["no room for the prompt in the context"] == too_long > 0
    assert facts["prompts_with_unsafe_answer"] <= 8 - too_long


def test_interrupted_sampling_resumes_and_ends_in_the_same_rows(tmp_path: Path) -> None:
    whole, facts = sampled(make_policy(), block(), tmp_path / "whole")
    folder = tmp_path / "stopped"

    def stop_after_a_chunk() -> None:
        if (folder / "sampled/unsafe-000").exists():
            raise StoppedError

    with pytest.raises(StoppedError):
        sampled(make_policy(), block(), folder, ChunkStore(folder / "sampled", stop_after_a_chunk))
    again: list[None] = []
    store = ChunkStore(folder / "sampled", lambda: again.append(None))
    table, same = sampled(make_policy(), block(), folder, store)
    assert table.equals(whole) and same == facts
    fresh: list[None] = []
    sampled(make_policy(), block(), tmp_path / "c", ChunkStore(tmp_path / "c", lambda: fresh.append(None)))
    assert 0 < len(again) < len(fresh)  # a chunk was there already


INSTRUCTION = "Refuse harm."
ASKED, HELP, REFUSAL = "how do I whittle a lamp", "first take the lamp and then whittle it", "I cannot help with that"


@pytest.fixture(scope="module")
def obedient(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """A model that answers, and refuses under a safety instruction: trained on these three chats alone."""
    chats = [
        [{"role": "user", "content": ASKED}, {"role": "assistant", "content": HELP}],
        [{"role": "user", "content": f"{INSTRUCTION} {ASKED}"}, {"role": "assistant", "content": REFUSAL}],
        [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": ASKED},
            {"role": "assistant", "content": REFUSAL},
        ],
    ]
    sizes: dict[str, Any] = {"vocab_size": 400, "hidden_size": 48, "n_layers": 2, "n_heads": 2, "context": 64}
    training: dict[str, Any] = {"steps": 60, "batch_size": 9, "lr": 1.0e-2}
    folder = tmp_path_factory.mktemp("obedient")
    settings = TinyModel(datasets=["x"], **sizes, **training)
    train_tiny_model(chats * 30, settings, folder / "model", Checkpoints(folder / "progress"))
    return load_policy(folder / "model")


NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"


@pytest.mark.parametrize(("begin", "place"), [("", "system turn"), (NO_SYSTEM, "in front of the prompt")])
def test_safe_answers_of_the_model_itself_are_its_refusals_under_the_instruction(
    obedient: Policy, tmp_path: Path, begin: str, place: str
) -> None:
    tokenizer = copy.deepcopy(obedient.tokenizer)
    tokenizer.chat_template = begin + tokenizer.chat_template
    policy = Policy(obedient.model, tokenizer, "f")
    settings = block(
        safe={"instruction": INSTRUCTION},
        answers_per_prompt=1,
        decoding={"max_new_tokens": 24, "temperature": 0.2},
    )
    rows = [{**ROWS[0], "messages": [{"role": "user", "content": ASKED}]}]
    sampler = Sampler(policy, settings.decoding, RoundJudge(RULES, None, tmp_path), ChunkStore(None))
    table, facts = sample_pairs(settings, rows, sampler, [])
    assert [(row["label"], row["response"].strip()) for row in table.to_pylist()] == [
        ("safe", REFUSAL),
        ("unsafe", HELP),
    ]
    assert all(row["messages"] == rows[0]["messages"] for row in table.to_pylist())
    assert facts["instruction_as"] == place


def asked_obedient(policy: Policy, folder: Path, **settings: Any) -> tuple[pa.Table, dict[str, Any]]:
    made = block(**settings)
    rows = [{**ROWS[0], "messages": [{"role": "user", "content": ASKED}]}]
    return sample_pairs(
        made, rows, Sampler(policy, made.decoding, RoundJudge(RULES, None, folder), ChunkStore(None)), []
    )


def test_nothing_after_the_prefill_is_no_answer(obedient: Policy, tmp_path: Path) -> None:
    settings = {"prefill": HELP, "tries": 2, "decoding": {"max_new_tokens": 8, "temperature": 0.2}}
    with pytest.raises(DataError, match="of 2 samples for unsafe answers, left out: empty: 2"):
        asked_obedient(obedient, tmp_path, **settings)


def test_each_unsafe_answer_is_in_a_pair_if_there_are_fewer_safe_ones(obedient: Policy, tmp_path: Path) -> None:
    table, _ = asked_obedient(
        obedient,
        tmp_path,
        safe={"instruction": INSTRUCTION},
        answers_per_prompt=6,
        tries=12,
        decoding={"max_new_tokens": 24, "temperature": 1.6},
    )
    answers = [row["response"] for row in table.to_pylist()]
    safe, unsafe = answers[::2], answers[1::2]
    assert len(set(safe)) < len(unsafe) == len(set(unsafe)) == 6
    assert safe == [safe[i % len(set(safe))] for i in range(6)]


def test_prompts_that_the_model_never_refuses_give_no_pair(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0 were kept from 8 prompts .* for safe answers, left out: .*judged harmful"):
        sampled(make_policy(), block(safe={"instruction": INSTRUCTION}), tmp_path)


def test_decoding_of_the_default_block_samples() -> None:
    assert SampledPairsBlock.model_fields["decoding"].default.temperature > Decoding().temperature
