"""Turns that a chat template cannot write are found before the model is asked or trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rebend.errors import ModelError
from rebend.generation.requests import make_requests
from rebend.io.schemas import CHAT, SAFETY
from rebend.models.loading import Policy
from rebend.repbend.examples import load_training_examples
from tests.helpers import extraction_parts
from tests.helpers.beginning_tokenizers import tokenizer
from tests.helpers.small_policy import make_policy, prompt_rows

TURNS = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|>"
REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TURNS
)
LOSES = TURNS.replace(
    "<|{{ m['role'] }}|>{{ m['content'] }}",
    "{% if m['role'] != 'system' %}<|{{ m['role'] }}|>{{ m['content'] }}{% endif %}",
)


def pieces(template: str) -> Any:
    made = tokenizer(begins=False)
    made.chat_template = template
    return made


def chat(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": f" {role} text"} for role in roles]


PROMPTS = [chat("user"), chat("system", "user"), chat("user"), chat("system", "user")]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (REFUSES, "cannot write a dialogue of system, user: System role not supported"),
        (LOSES, "leaves out the system turn"),
    ],
)
def test_prompts_that_cannot_be_written_are_refused_with_the_first_rows_name(template: str, reason: str) -> None:
    policy = Policy(None, pieces(template), "")
    with pytest.raises(ModelError, match=rf"row 'b': .*{reason} \(2 of 4 prompts are like it\)\. Nothing was asked"):
        make_requests(policy, PROMPTS, keys=["a", "b", "c", "d"])
    assert len(make_requests(policy, PROMPTS[::2])) == 2
    assert len(make_requests(Policy(None, pieces(TURNS), ""), PROMPTS)) == 4


def test_extraction_finds_a_prompt_of_a_late_chunk_before_the_model_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = prompt_rows()
    rows[-1] = {**rows[-1], "messages": chat("system", "user")}
    monkeypatch.setattr(extraction_parts, "prompt_rows", lambda: rows)
    model = make_policy()
    monkeypatch.setattr(model.tokenizer, "chat_template", REFUSES)
    with pytest.raises(ModelError, match=f"row '{rows[-1]['row_id']}': the chat template cannot write"):
        extraction_parts.extract_shard(model, tmp_path, 1)
    assert not list(tmp_path.glob("parts1/*"))


def test_training_rows_that_cannot_be_written_are_left_out_and_counted() -> None:
    def safety(name: str, label: str, pair: str | None, *roles: str) -> dict[str, Any]:
        return {"row_id": name, "messages": chat(*roles), "response": "yes", "label": label, "pair": pair}

    rows = [safety(label, label, None, "user") for label in ("safe", "unsafe")]
    rows += [safety("s", "safe", None, "system", "user")]
    pairs = [safety(f"{p}{label}", label, p, *roles) for p, *roles in (("p", "user"), ("q", "system", "user"))
             for label in ("safe", "unsafe")]  # fmt: skip
    chats = [{"row_id": str(i), "messages": chat(*roles)} for i, roles in enumerate(
        [("user", "assistant"), ("system", "user", "assistant")])]  # fmt: skip
    examples = load_training_examples(
        pieces(REFUSES),
        pa.Table.from_pylist(rows, SAFETY),
        pa.Table.from_pylist(pairs, SAFETY),
        pa.Table.from_pylist(chats, CHAT),
        64,
    )
    assert [len(part) for part in (examples.safe, examples.unsafe, examples.pairs, examples.retain)] == [1, 1, 1, 1]
    assert examples.left_out == {
        "prompt too long": 0,
        "empty answer": 0,
        "the chat template cannot write a dialogue of system, user: System role not supported": 3,
        "the chat template cannot write a dialogue of system, user, assistant: System role not supported": 1,
    }
