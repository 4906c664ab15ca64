"""Perplexity on held-out chats: against a plain loop, and dialogues that cannot be scored."""

from __future__ import annotations

import pyarrow as pa
import pytest

from rebend.evaluation.chat_perplexity import chat_texts, score_chats
from rebend.io.schemas import CHAT, SCORES
from rebend.models.chat import Message, prompt_text
from tests.helpers.plain_likelihood import WITH_BOS, WITHOUT_BOS, ids_of, mean_nll, random_policy

ENDS = {WITH_BOS: "<|eot_id|>", WITHOUT_BOS: "<|im_end|>"}


def chat(*turns: str) -> list[Message]:
    """Return a dialogue whose first turn is the user's."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]


def table(*dialogues: list[Message]) -> pa.Table:
    lines = [{"row_id": f"d{i}", "messages": messages} for i, messages in enumerate(dialogues)]
    return pa.Table.from_pylist(lines, CHAT)


LONG = chat("how do I make tea", "take hot water", "why", "because it is so")
SHORT = chat("hello", " hello there ")


@pytest.mark.parametrize("shape", [WITH_BOS, WITHOUT_BOS])
def test_scores_equal_a_plain_loop_over_the_tokens_of_answers(shape: str) -> None:
    policy = random_policy(shape)
    scores, notes = score_chats(policy, table(LONG, SHORT))
    end, tokenizer = ENDS[shape], policy.tokenizer
    counted = [len(ids_of(tokenizer, text + end)) for text in ("take hot water", "because it is so")]
    parts = [
        mean_nll(policy, prompt_text(tokenizer, LONG[:before]), LONG[before]["content"] + end) for before in (1, 3)
    ]
    mean = sum(part * n for part, n in zip(parts, counted, strict=True)) / sum(counted)
    short = mean_nll(policy, prompt_text(tokenizer, SHORT[:1]), "hello there" + end)
    assert scores.schema == SCORES and scores["score"].to_pylist() == pytest.approx([mean, short], rel=1e-5)
    assert notes == {"tokens": sum(counted) + len(ids_of(tokenizer, "hello there" + end))}


@pytest.mark.parametrize(("shape", "passes"), [(WITHOUT_BOS, 1), (WITH_BOS, 1), ("Qwen3", 1), ("Llama 2", 1)])
def test_a_dialogue_is_one_text_where_prompts_continue_answers(shape: str, passes: int) -> None:
    """Every answer's end is scored once: the last token of each answer is the end of its turn."""
    texts = chat_texts(random_policy(shape), LONG)
    assert not isinstance(texts, str) and len(texts) == passes
    end = random_policy(shape).tokenizer.convert_tokens_to_ids(
        ENDS.get(shape, "<|im_end|>" if shape == "Qwen3" else "</s>")
    )
    assert sum(text.tokens[place] == end for text in texts for place in text.scored) == 2


def test_answers_beyond_the_context_are_left_out() -> None:
    policy = random_policy(WITHOUT_BOS, context=64)
    whole, _ = score_chats(policy, table(LONG[:2]))
    cut, _ = score_chats(policy, table(chat("how do I make tea", "take hot water", "why " * 60, "because it is so")))
    assert cut["score"].to_pylist() == pytest.approx(whole["score"].to_pylist())


def test_dialogues_that_cannot_be_scored_have_a_reason() -> None:
    policy = random_policy(WITHOUT_BOS, context=64)
    scores, _ = score_chats(policy, table(chat("why " * 80, "so"), chat("why", " "), SHORT))
    assert scores["not_scored"].to_pylist() == [
        "no answer of the dialogue fits the model's context", "all answers of the dialogue are empty", None
    ]  # fmt: skip
