"""Prompts and reward texts of RE-Control's data: those of the released code, and the data sets' own, byte for byte."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rebend.config.datasets import DatasetBlock
from rebend.config.rewards import RewardBlock
from rebend.data.datasets import prepare_dataset
from rebend.data.readers.hh_rlhf import dialogue
from rebend.errors import ModelError
from rebend.evaluation.coherence import joined_turns
from rebend.generation.requests import make_requests
from rebend.models.chat import conversation_text, prompt_text
from rebend.models.loading import Policy
from rebend.models.rewards.model import RewardModel
from rebend.models.rewards.prompt import around_response, scored_text
from rebend.recontrol.methods.controlled_decoding import prompt_and_tail, space_follows
from tests.helpers.beginning_tokenizers import tokenizer
from tests.helpers.released_texts import HH_RLHF, SHP, Row

TEMPLATES = Path(__file__).parents[3] / "resources" / "templates"
SHARED = Path(os.environ.get("REBEND_SHARED") or Path(__file__).parents[4] / "shared" / "data")
CASES = [("hh_rlhf", HH_RLHF, "hh_rlhf"), ("recontrol", SHP, "human_assistant")]


def rows_of(reader: str, rows: list[Row], folder: Path, **keys: Any) -> list[dict[str, Any]]:
    """Return the prepared rows of the sources, in their order."""
    file = folder / "rows.jsonl"
    column = "chosen" if reader == "hh_rlhf" else "history"
    lines = [json.dumps({column: row.source, "rejected": "-"}, ensure_ascii=False) + "\n" for row in rows]
    file.write_text("".join(lines), encoding="utf-8")
    block = DatasetBlock.model_validate({"kind": "prompts", "reader": reader, "source": {"local": "x"}, **keys})
    return prepare_dataset(block, file).table.to_pylist()


def with_template(name: str, **keys: Any) -> Any:
    pieces = tokenizer(**keys)
    pieces.chat_template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return pieces


@pytest.mark.parametrize(("reader", "rows", "_"), CASES)
@pytest.mark.parametrize("word", ["Human", "User"])
@pytest.mark.parametrize("begins", [{"begins": True}, {"begins": False, "bos": None}])
def test_prompt_and_its_ids_are_those_of_the_released_code(
    reader: str, rows: list[Row], _: str, word: str, begins: dict[str, Any], tmp_path: Path
) -> None:
    pieces = with_template("as_written", **begins)
    read = rows_of(reader, rows, tmp_path, variant="released_code", user_word=word)
    expected = [row.released.replace("Human: ", f"{word}: ") for row in rows]
    assert [joined_turns(row["messages"]) for row in read] == expected  # coherence encodes the same text
    requests = make_requests(Policy(None, pieces, ""), [row["messages"] for row in read])
    assert [request.prompt_ids for request in requests] == pieces(expected)["input_ids"]
    assert ((pieces(expected)["input_ids"][0][0]) == 0) is begins["begins"]


@pytest.mark.parametrize(("reader", "rows", "template"), CASES)
def test_corrected_prompt_is_the_data_sets_own(reader: str, rows: list[Row], template: str, tmp_path: Path) -> None:
    kept = [row for row in rows if row.own is not None]
    read = rows_of(reader, rows, tmp_path)
    pieces = with_template(template)
    assert [prompt_text(pieces, row["messages"]) for row in read] == [f"<s>{row.own}" for row in kept]
    requests = make_requests(Policy(None, pieces, ""), [row["messages"] for row in read])
    assert [request.prompt_ids for request in requests] == pieces([row.own for row in kept])["input_ids"]


def test_released_reader_cuts_at_the_last_name_of_the_assistant_and_other_kinds_are_refused(tmp_path: Path) -> None:
    source = "\n\nHuman: Hi Human: you\n\nAssistant: I am your Assistant: ask."
    (row,) = rows_of("hh_rlhf", [Row(source, "", "")], tmp_path, variant="released_code", user_word="User")
    assert row["messages"][0]["content"] == "\n\nUser:  Hi User:  you\n\nAssistant: I am your Assistant:"
    assert row["reference"] == "ask."
    with pytest.raises(ValueError, match="is for kind prompts"):
        rows_of("hh_rlhf", HH_RLHF, tmp_path, variant="released_code", kind="chat")
    with pytest.raises(ValueError, match="`user_word` needs"):
        rows_of("hh_rlhf", HH_RLHF, tmp_path, user_word="User")


def test_reader_without_a_released_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="readers that have one: hh_rlhf, shp, recontrol"):
        rows_of("ultrachat", HH_RLHF, tmp_path, variant="released_code")


# --- rewards

OWN = RewardBlock.model_validate({"local": "x", "template": "\n\nHuman: {prompt}\n\nAssistant: {response}"})
RELEASED = {"local": "x", "variant": "released_code"}


@pytest.mark.parametrize("row", [row for row in HH_RLHF if row.own is not None])
def test_corrected_reward_text_is_the_dialogue_of_the_data_set(row: Row) -> None:
    *prompt, answer = dialogue(row.source)
    assert scored_text(OWN, prompt, answer["content"]) == row.source
    assert scored_text(OWN, prompt, " " + answer["content"]) == row.source  # as a model generates it
    assert conversation_text(with_template("hh_rlhf"), prompt, answer["content"]) == f"<s>{row.source}</s>"
    before, after = around_response(OWN, prompt)
    assert (before, after) == (f"{row.own} ", "")


def test_released_reward_text_is_prompt_and_response_as_decoded() -> None:
    prompt = [{"role": "user", "content": HH_RLHF[3].released}]
    answer = " No.\nhuman: and?\n\nAssistant: yes"
    begin = (
        "\n\nHuman:  You’re not worth my time.\n\nAssistant: Oh, really?\n\nHuman:  Yes. Because you’re not smart."
        "\n\nAssistant:"
    )
    label = RewardBlock.model_validate(RELEASED)
    assert scored_text(label, prompt, answer) == begin + " No.\nhuman: and?\n\nAssistant: yes"
    post = [{"role": "user", "content": "User: Why? User: x\nAssistant:"}]
    llama3 = RewardBlock.model_validate({**RELEASED, "replaced": {"User:": "Human:"}})
    assert scored_text(llama3, post, " So. User: and") == "Human: Why? Human: x\nAssistant: So. Human: and"
    with pytest.raises(ModelError, match="this prompt has 3 turns"):
        scored_text(label, dialogue(HH_RLHF[3].source)[:3], "x")


def test_exchanges_are_separated_by_an_empty_line_or_by_the_template_itself() -> None:
    turns = [{"role": role, "content": word} for role, word in (("user", "a"), ("assistant", " b"), ("user", "c"))]
    block = RewardBlock.model_validate({"local": "x", "template": "Q: {prompt}\nA: {response}"})
    assert scored_text(block, turns, " d") == "Q: a\nA:  b\n\nQ: c\nA: d"
    tight = RewardBlock.model_validate({"local": "x", "template": "Q: {prompt}\nA:{response}"})
    assert scored_text(tight, turns[:1], " d") == "Q: a\nA: d"


def test_reward_keys_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="leave out `template`"):
        RewardBlock.model_validate({**RELEASED, "template": "{response}"})
    with pytest.raises(ValueError, match="needs a `template`"):
        RewardBlock.model_validate({"local": "x", "replaced": {"User:": "Human:"}})
    with pytest.raises(ValueError, match="an empty word"):
        RewardBlock.model_validate({**RELEASED, "replaced": {"": "x"}})


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real data sets; set REBEND_SHARED")
def test_every_dialogue_of_the_data_set_is_written_again_byte_for_byte() -> None:
    pieces = with_template("hh_rlhf")
    compared = 0
    written = gzip.decompress((SHARED / "hh_rlhf" / "test.jsonl.gz").read_bytes()).decode()
    for source in (json.loads(line)["chosen"] for line in written.strip().split("\n")):
        *prompt, answer = dialogue(source)
        if answer["role"] == "assistant" and [turn["role"] for turn in prompt][::2] == ["user"] * (
            len(prompt) // 2 + 1
        ):
            assert conversation_text(pieces, prompt, answer["content"]) == f"<s>{source}</s>"
            assert scored_text(OWN, prompt, source.rpartition("\n\nAssistant:")[2]) == source
            compared += 1
    assert compared > 190


@pytest.mark.parametrize(("template", "ids_of"), [("hh_rlhf", "Assistant:"), ("with_mark", "Assistant: ")])
def test_reward_guided_search_reads_one_space_before_a_response(template: str, ids_of: str) -> None:
    pieces = tokenizer()
    marks = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"  # a prompt ends with a special token
    pieces.chat_template = (TEMPLATES / "hh_rlhf.jinja").read_text() if template == "hh_rlhf" else marks
    messages = [{"role": "user", "content": "how"}]
    spaced = space_follows(pieces, messages)
    reward = RewardModel(None, pieces, OWN)
    before, after = prompt_and_tail(reward, messages, spaced=spaced)
    assert (before, after) == (pieces(f"\n\nHuman: how\n\n{ids_of}")["input_ids"], [])


def test_outer_white_space_of_a_turn_is_kept() -> None:
    source = "\n\nHuman:  Hi \n\nAssistant: Yes.\n"
    assert [turn["content"] for turn in dialogue(source)] == [" Hi ", "Yes.\n"]
    assert conversation_text(with_template("hh_rlhf"), dialogue(source)[:1], "Yes.\n") == f"<s>{source}</s>"
