"""Training examples: tokens, rows left out, and the examples of each step."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rebend.errors import DataError, ModelError
from rebend.io.schemas import CHAT
from rebend.models.chat import prompt_text
from rebend.repbend.examples import Reading, TrainingExamples, load_training_examples
from rebend.repbend.methods.repbend import RepBend
from tests.helpers.training_parts import pairs, retain, samples, settings, tables, tokenizer, user


@pytest.fixture(scope="module")
def data() -> TrainingExamples:
    return load_training_examples(tokenizer(), *tables(), max_length=64)


@pytest.mark.parametrize("label", ["safe", "unsafe"])
def test_answers_of_one_label_only_are_refused(label: str) -> None:
    one_class = samples().filter(pc.field("label") == label)
    with pytest.raises(DataError, match=r"training an adapter needs (un)?safe answers"):
        load_training_examples(tokenizer(), one_class, pairs(), retain(), 64)


def test_missing_pairs_or_chats_are_refused() -> None:
    with pytest.raises(DataError, match="needs pairs"):
        load_training_examples(tokenizer(), samples(), samples(), retain(), 64)
    with pytest.raises(DataError, match="needs retain chats"):
        load_training_examples(tokenizer(), samples(), pairs(), CHAT.empty_table(), 64)


def test_incomplete_pair_is_refused_with_its_name() -> None:
    with pytest.raises(DataError, match=r"pair 'p2' has the labels \['unsafe'\]"):
        load_training_examples(tokenizer(), samples(), pairs().slice(0, 5), retain(), 64)


def test_tokens_are_templated_prompt_and_plain_answer(data: TrainingExamples) -> None:
    pieces = tokenizer()
    entry, row = samples().to_pylist()[0], data.safe[0]
    prompt = pieces.apply_chat_template(entry["messages"], tokenize=False, add_generation_prompt=True)
    assert pieces.decode(row.tokens[: row.n_prompt]) == prompt
    assert pieces.decode(row.tokens[row.n_prompt :]) == entry["response"]
    assert pieces.decode(data.retain[0].tokens) == pieces.apply_chat_template(
        retain().to_pylist()[0]["messages"], tokenize=False
    )


def test_too_long_prompts_and_empty_answers_are_left_out_and_counted() -> None:
    extra = [
        {"row_id": "x", "messages": user("why " * 99), "response": "so", "label": "safe", "pair": None},
        {"row_id": "y", "messages": user("why"), "response": "", "label": "safe", "pair": None},
        {"row_id": "z", "messages": user("why"), "response": "because " * 99, "label": "safe", "pair": None},
    ]
    table = pa.concat_tables([samples(), pa.Table.from_pylist(extra, samples().schema)])
    data = load_training_examples(tokenizer(), table, pairs(), retain(), 64)
    assert data.left_out == {"prompt too long": 1, "empty answer": 1}
    long = data.safe[-1]
    assert (long.row_id, len(long.tokens) - long.n_prompt) == ("z", 64)


def test_released_code_cuts_long_prompts_on_the_right() -> None:
    """The cut prompt loses the end of the request and the start of the model's turn, as there."""
    row = {"row_id": "x", "messages": user("why " * 99), "response": "so it is", "label": "safe", "pair": None}
    table = pa.concat_tables([samples(), pa.Table.from_pylist([row], samples().schema)])
    data = load_training_examples(tokenizer(), table, pairs(), retain(), 64, RepBend.reading(settings()))
    whole = tokenizer()(prompt_text(tokenizer(), row["messages"]), add_special_tokens=False)["input_ids"]
    answer = tokenizer()("so it is", add_special_tokens=False)["input_ids"]
    assert (data.safe[-1].tokens, data.safe[-1].n_prompt) == (whole[:64] + answer, 64)
    assert data.left_out == {"prompt too long": 0, "empty answer": 0}
    corrected = RepBend.reading(settings(variant="corrected", lora_dropout=0.0))
    assert load_training_examples(tokenizer(), table, pairs(), retain(), 64, corrected).left_out["prompt too long"] == 1


@pytest.mark.parametrize(("mode", "n_used"), [("prompt_last", 7), ("prompt_all", 7), ("response_all", 6)])
def test_modes_that_read_prompts_only_use_rows_without_an_answer(mode: str, n_used: int) -> None:
    row = {"row_id": "x", "messages": user("why"), "response": "", "label": "safe", "pair": None}
    table = pa.concat_tables([samples(), pa.Table.from_pylist([row], samples().schema)])
    reading = RepBend.reading(settings(loss_mode=mode))
    data = load_training_examples(tokenizer(), table, pairs(), retain(), 64, reading)
    assert len(data.safe) + len(data.unsafe) == n_used


def test_one_table_may_hold_single_and_paired_answers() -> None:
    both = pa.concat_tables([samples(), pairs()])
    data = load_training_examples(tokenizer(), both, both, retain(), 64)
    assert [row.row_id for row in (*data.safe, *data.unsafe)] == ["s0", "s2", "s4", "s1", "s3", "s5"]
    assert [(safe.row_id, unsafe.row_id) for safe, unsafe in data.pairs] == [
        (f"p{n}safe", f"p{n}unsafe") for n in range(3)
    ]


def test_table_of_pairs_only_serves_as_single_answers_too() -> None:
    data = load_training_examples(tokenizer(), pairs(), pairs(), retain(), 64)
    assert [row.row_id for row in data.safe] == ["p0safe", "p1safe", "p2safe"]
    assert len(data.unsafe) == len(data.pairs) == 3


def test_examples_of_a_step_depend_on_seed_and_number_only(data: TrainingExamples) -> None:
    later = data.step(7, 2, 0).ids()
    data.step(0, 2, 0)
    assert data.step(7, 2, 0).ids() == later
    assert any(data.step(step, 2, 1).ids() != data.step(step, 2, 0).ids() for step in (0, 1))


def test_each_example_occurs_once_per_epoch(data: TrainingExamples) -> None:
    seen = [row.row_id for step in range(5) for row in data.step(step, 2, 0).retain]
    assert sorted(seen[:5]) == sorted(seen[5:]) == [f"r{n}" for n in range(5)]


def test_groups_hold_the_items_of_a_step_in_order(data: TrainingExamples) -> None:
    whole = data.step(3, 4, 0)
    assert [row_id for group in whole.groups(2) for row_id in group.ids()] != whole.ids()
    assert [row.row_id for group in whole.groups(2) for row in group.retain] == [row.row_id for row in whole.retain]
    assert [data.step(item, 1, 0).ids() for item in range(12, 16)] == [group.ids() for group in whole.groups(1)]


def test_template_that_changes_answers_is_refused() -> None:
    pieces = tokenizer()
    pieces.chat_template = pieces.chat_template.replace("message['content']", "message['content'] | upper").replace(
        "message.content", "message.content | upper"
    )
    with pytest.raises(ModelError, match="loses or changes answers"):
        load_training_examples(pieces, *tables(), 64, Reading(end_of_turn=True))
