"""Chats of harmless prompts with a model's own answers: which are kept, in which rows, and why others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rebend.config.datasets import SampledChatsBlock
from rebend.config.safety import RefusalMatcherBlock, WorldTruthBlock
from rebend.data.readers.rows import safety_pair
from rebend.errors import DataError
from rebend.evaluation.judges.safety.text_rules import without_harm
from rebend.evaluation.judges.safety.verdict import HARMLESS
from rebend.evaluation.sampled_pairs.chats import sample_chats
from rebend.evaluation.sampled_pairs.sampling import RoundJudge, Sampler, sample_answers
from rebend.generation.generate import generate
from rebend.io.chunks import ChunkStore
from rebend.io.schemas import CHAT, SAFETY
from rebend.models.loading import Policy
from rebend.repbend.examples import load_training_examples
from tests.helpers.small_policy import PROMPTS, make_policy

RULES = RefusalMatcherBlock(method="refusal_matcher")
ROWS: list[dict[str, Any]] = [
    {"row_id": f"row{i}", "messages": messages, "request": None, "harmful": False, "group": ""}
    for i, messages in enumerate(PROMPTS)
]


def block(**settings: Any) -> SampledChatsBlock:
    plain: dict[str, Any] = {
        "kind": "chat",
        "reader": "sampled_chats",
        "model": "m",
        "prompts": ["p", "q"],
        "judge": "j",
        "decoding": {"max_new_tokens": 8, "batch_size": 3},
        **settings,
    }
    return SampledChatsBlock.model_validate(plain)


def sampled(policy: Policy, settings: SampledChatsBlock, folder: Path, store: ChunkStore | None = None) -> Any:
    judge = RoundJudge(RULES, None, folder / "judged")
    return sample_chats(settings, ROWS, Sampler(policy, settings.decoding, judge, store or ChunkStore(None)))


def test_chats_are_the_kept_answers_of_a_plain_loop_and_serve_as_retain_chats(tmp_path: Path) -> None:
    policy, settings = make_policy(), block()
    expected = []
    for row in ROWS:
        (response,) = generate(policy, [row["messages"]], settings.decoding)
        assert response is not None
        if without_harm({"response": response.text, "prefill": ""}) == "harmless":
            expected.append([*row["messages"], {"role": "assistant", "content": response.text}])
    table, facts = sampled(policy, settings, tmp_path)
    assert table.schema.equals(CHAT)
    assert table["messages"].to_pylist() == expected
    assert len(set(table["row_id"].to_pylist())) == len(expected) == facts["rows"]
    assert 0 < len(expected) < len(ROWS) == facts["prompts"] == facts["harmless_samples"]
    assert facts["harmless_left_out"] == {"incoherent": len(ROWS) - len(expected)}
    pairs = pa.Table.from_pylist(
        [{**row, "row_id": row["label"]} for row in safety_pair(PROMPTS[0], "no", "harm it")], schema=SAFETY
    )
    assert len(load_training_examples(policy.tokenizer, pairs, pairs, table, 64).retain) == len(expected)


def test_too_few_chats_are_an_error_with_reasons(tmp_path: Path) -> None:
    _, facts = sampled(make_policy(), block(), tmp_path / "a")
    with pytest.raises(
        DataError,
        match=rf"`least: 8` chats are asked for, and {facts['rows']} were kept from 8 prompts of p, q \(of 8 samples "
        rf"for harmless answers, left out: incoherent: {8 - facts['rows']}\)",
    ):
        sampled(make_policy(), block(least=8), tmp_path / "b")


def test_coherent_text_that_the_judge_calls_no_answer_is_not_kept(tmp_path: Path) -> None:
    """The exact judge of the tiny world calls two right steps and a wrong one harmless, and not answered."""
    wrong = "first take the tea-pot, then fill a kettle, and let it dry."
    judge = RoundJudge(WorldTruthBlock(method="world_truth"), None, tmp_path)
    sampler = Sampler(make_policy(), block().decoding, judge, ChunkStore(None))
    rows = [{**ROWS[0], "messages": [{"role": "user", "content": "how do I boil the tea-pot?"}]}]
    answers = sample_answers(sampler, rows, HARMLESS, 1, 1, name="a", prefill=wrong)
    assert answers.kept == {"row0": []} and answers.left_out == {"not answered": 1}
    marked = [{**rows[0], "response": wrong, "attempt": 0, "prefill": "", "harmful": harmful} for harmful in (0, 1)]
    assert judge.verdicts(marked, "b") == ["unanswered", "harmless"]  # pairs count the latter as judged harmless
