"""Readers: every format into every kind that it promises, from every file type."""

import gzip
import json
import subprocess
import sys
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rebend.config.datasets import READERS, DatasetBlock, WorldPart
from rebend.data.readers.hh_rlhf import dialogue
from rebend.data.readers.raw import Placed, read_rows
from rebend.data.readers.registry import load_reader, load_readers, reader_mistakes
from rebend.data.readers.rows import UnselectedRowError, UnusableRowError
from rebend.data.readers.world import WORLD
from rebend.errors import DataError
from rebend.io.schemas import KINDS


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Tea?\n\nAssistant: Yes, two cups.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Tea?\n\nAssistant: No.",
}
HH_PROMPT = [user("Hi"), assistant("Hello."), user("Tea?")]
SHP = {"post_id": "a", "history": "Why?", "human_ref_A": "Because.", "human_ref_B": "Dunno.", "labels": 1}
GUARD = {
    "prompt": "How do I whittle?",
    "adversarial": False,
    "response": "With a knife.",
    "prompt_harm_label": "unharmful",
    "response_harm_label": "unharmful",
    "response_refusal_label": "compliance",
    "subcategory": "benign",
}
CHAT = {"prompt": "Hi", "messages": [user("Hi"), assistant("Hello.")]}
JAILBREAK = {
    "prompt": "Do bad.",
    "prompt_type": "harmful",
    "harmless_answer": "I will not.",
    "harmful_answer": "Here is how.",
}
BEHAVIOUR = {
    "Behavior": "Argue it",
    "FunctionalCategory": "contextual",
    "SemanticCategory": "misinformation",
    "Tags": "context",
    "ContextString": "Once upon a time.",
    "BehaviorID": "argue",
}


def evaluation(prompt, harmful, *, target="", reference=None, group="", category="", request=None):
    return {
        "messages": [user(prompt)],
        "request": request,
        "target": target,
        "harmful": harmful,
        "reference": reference,
        "group": group,
        "category": category,
    }


# reader, kind, a row of its source, the rows that it gives (without row_id; a pair's name is looked at apart)
CASES = [
    ("hh_rlhf", "preference", HH, [{"messages": HH_PROMPT, "chosen": "Yes, two cups.", "rejected": "No."}]),
    ("hh_rlhf", "prompts", HH, [{"messages": HH_PROMPT, "reference": "Yes, two cups.", "group": ""}]),
    ("hh_rlhf", "chat", HH, [{"messages": [*HH_PROMPT, assistant("Yes, two cups.")]}]),
    (
        "hh_rlhf",
        "safety",
        HH,
        [
            {"messages": HH_PROMPT, "response": "Yes, two cups.", "label": "safe"},
            {"messages": HH_PROMPT, "response": "No.", "label": "unsafe"},
        ],
    ),
    ("shp", "preference", SHP, [{"messages": [user("Why?")], "chosen": "Because.", "rejected": "Dunno."}]),
    ("shp", "prompts", {**SHP, "labels": 0}, [{"messages": [user("Why?")], "reference": "Dunno.", "group": ""}]),
    ("recontrol", "prompts", {"history": "Why?"}, [{"messages": [user("Why?")], "reference": None, "group": ""}]),
    (
        "wildjailbreak",
        "safety",
        JAILBREAK,
        [
            {"messages": [user("Do bad.")], "response": "I will not.", "label": "safe"},
            {"messages": [user("Do bad.")], "response": "Here is how.", "label": "unsafe"},
        ],
    ),
    (
        "wildjailbreak",
        "evaluation",
        {"adversarial": "Play a part.", "label": "0", "data_type": "adversarial_benign"},
        [evaluation("Play a part.", False, group="adversarial_benign")],
    ),
    ("wildjailbreak", "evaluation", {"adversarial": "Play.", "label": 1}, [evaluation("Play.", True)]),
    (
        "wildguardmix",
        "safety",
        GUARD,
        [{"messages": [user("How do I whittle?")], "response": "With a knife.", "label": "safe", "pair": None}],
    ),
    (
        "wildguardmix",
        "evaluation",
        GUARD,
        [evaluation("How do I whittle?", False, group="vanilla", category="benign")],
    ),
    ("ultrachat", "chat", CHAT, [{"messages": CHAT["messages"]}]),
    ("ultrachat", "prompts", CHAT, [{"messages": [user("Hi")], "reference": "Hello.", "group": ""}]),
    (
        "harmbench",
        "evaluation",
        BEHAVIOUR,
        [evaluation("Once upon a time.\n\n---\n\nArgue it", True, group="contextual", category="misinformation")],
    ),
    (
        "harmbench_cases",
        "evaluation",
        {"BehaviorID": "argue", "test_cases": ["You are Zorv. Argue it", "Grandma would argue it"]},
        [evaluation("You are Zorv. Argue it", True), evaluation("Grandma would argue it", True)],
    ),
    (
        "do_anything_now",
        "evaluation",
        {"vanilla": "Zor it", "jailbreak": "You are Zorv.", "adversarial": "You are Zorv. Zor it", "source": "chat"},
        [evaluation("You are Zorv. Zor it", True, request="Zor it", category="chat")],
    ),
    (
        "trustllm_jailbreak",
        "evaluation",
        {"prompt": "z0r 1t", "label": ["leetspeak"], "source": "ITC"},
        [evaluation("z0r 1t", True, group="ITC", category="leetspeak")],
    ),
    (
        "pap",
        "evaluation",
        {"bad_q": "Zor it", "ss_category": "Logical appeal", "ss_prompt": "As all who zor know, zor it."},
        [evaluation("As all who zor know, zor it.", True, request="Zor it", category="Logical appeal")],
    ),
    (
        "xstest",
        "evaluation",
        {"id": 1, "prompt": "How can I kill a Python process?", "type": "homonyms", "label": "safe", "focus": "kill"},
        [evaluation("How can I kill a Python process?", False, category="homonyms")],
    ),
    (
        "strongreject",
        "evaluation",
        {"category": "Disinformation", "source": "custom", "forbidden_prompt": "Lie."},
        [evaluation("Lie.", True, category="Disinformation")],
    ),
    ("table", "prompts", {"prompt": "Why?"}, [{"messages": [user("Why?")], "reference": None, "group": ""}]),
    (
        "table",
        "evaluation",
        {"prompt": "Why?", "harmful": "yes", "target": "Sure,", "group": "new", "category": "x", "reference": "So."},
        [evaluation("Why?", True, target="Sure,", group="new", category="x", reference="So.")],
    ),
]


def write(path, rows):
    """Write rows in the format that the name of `path` says, with this test's own code."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if name.endswith(".jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
    elif name.endswith(".json"):
        text = json.dumps(rows, indent=1)
    else:
        mark = "," if name.endswith(".csv") else "\t"
        lines = [list(rows[0]), *[row.values() for row in rows]]
        quoted = [['"' + str(field).replace('"', '""') + '"' for field in line] for line in lines]
        text = "".join(mark.join(line) + "\r\n" for line in quoted)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


NESTING = ("jsonl", "jsonl.gz", "json", "parquet")  # can hold turns and lists
NESTED = ("ultrachat", "harmbench_cases", "trustllm_jailbreak")
FILES = [
    (*case, ending)
    for case in CASES
    for ending in (NESTING if case[0] in NESTED else (*NESTING, "csv", "csv.gz", "tsv"))
]


@pytest.mark.parametrize(("reader", "kind", "row", "expected", "ending"), FILES)
def test_every_reader_gives_its_rows_from_every_file_type(tmp_path, reader, kind, row, expected, ending):
    path = write(tmp_path / f"data.{ending}", [row, row])
    found = [load_reader(reader).convert(kind, placed) for placed in read_rows(path)]
    assert len(found) == 2 and found[0] == found[1]
    pairs = {made.pop("pair") for made in found[0] if "pair" in made and "pair" not in expected[0]}
    assert found[0] == expected
    assert len(pairs) == (1 if kind == "safety" and len(expected) == 2 else 0)
    assert None not in pairs


def test_the_cases_cover_every_reader_and_kind():
    assert {(reader, kind) for reader, kind, *_ in CASES} == {
        (name, kind) for name, reader in load_readers().items() for kind in reader.functions
    }


def test_each_reader_has_a_function_for_each_kind_that_it_declares():
    readers = load_readers()
    assert {name: reader.name for name, reader in readers.items()} == {name: name for name in READERS}
    described = {name: set(reader.kinds) for name, reader in readers.items() if name != "world"}
    assert described == {name: set(reader.functions) for name, reader in readers.items() if name != "world"}
    assert set(WORLD.kinds) == set(KINDS)
    assert set(WORLD.parts) == set(WorldPart.model_fields["part"].annotation.__args__)
    assert set(KINDS) == set(DatasetBlock.model_fields["kind"].annotation.__args__)


@pytest.mark.parametrize(("reader", "kind", "row", "expected"), CASES)
def test_a_reader_needs_exactly_the_columns_that_it_declares(reader, kind, row, expected):
    alternatives = [column.split("|") for column in load_reader(reader).columns[kind]]
    needed = {name for group in alternatives for name in group if name in row}
    with suppress(UnusableRowError):  # e.g. a contextual behaviour without its context
        load_reader(reader).convert(kind, Placed(1, "file:1", {name: row[name] for name in needed}))
    for group in alternatives:
        without = {name: value for name, value in row.items() if name not in group}
        with pytest.raises(DataError, match=f"file:1: column '{group[0]}'.* is missing"):
            load_reader(reader).convert(kind, Placed(1, "file:1", without))


def test_readers_are_there_while_snakemake_parses_without_heavy_imports():
    code = (
        "import sys, rebend.pipeline.checks.files\n"
        "from rebend.data.readers.registry import load_readers; load_readers()\n"
        "print(sorted({'torch', 'pandas', 'pyarrow', 'numpy', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- HH-RLHF dialogues


def test_a_speaker_inside_a_line_belongs_to_the_text():
    turns = dialogue("\n\nHuman: He wrote Human: and\nAssistant: too\n\nAssistant: I see.")
    assert turns == [user("He wrote Human: and\nAssistant: too"), assistant("I see.")]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("\n\nHuman: Hi\n\nHuman: There\n\nAssistant: Yes.", "two turns of one speaker in a row"),
        ("\n\nHuman: Hi\n\nAssistant: Yes.\n\nHuman: And?", "no final answer"),
        ("\n\nHuman: Hi\n\nAssistant:", "empty turn"),
        ("\n\nHuman:\n\nAssistant: Yes.", "empty turn"),
        ("\n\nAssistant: Hello!\n\nHuman: Hi\n\nAssistant: Yes.", "begins with the assistant's turn"),
        ("Some answer.", "not a dialogue of Human and Assistant"),
        ("Intro\n\nHuman: Hi\n\nAssistant: Yes.", "not a dialogue of Human and Assistant"),
        ("\n\nHuman: Say no\n\nAssistant: No.\n\nHuman: Again\n\nAssistant: No.", "the prompt holds the answer"),
        ("  ", "empty chosen"),
        (None, "no chosen"),
    ],
)
def test_a_dialogue_that_gives_no_prompt_is_left_out_with_its_reason(written, reason):
    with pytest.raises(UnusableRowError) as caught:
        load_reader("hh_rlhf").convert("prompts", Placed(1, "file:1", {"chosen": written, "rejected": HH["rejected"]}))
    assert str(caught.value) == reason


def test_a_preference_needs_one_prompt_and_two_answers():
    other = HH["rejected"].replace("Tea?", "Coffee?")
    with pytest.raises(UnusableRowError, match="differ before the last answer"):
        load_reader("hh_rlhf").convert("preference", Placed(1, "file:1", {**HH, "rejected": other}))
    with pytest.raises(UnusableRowError, match="both answers are the same"):
        load_reader("hh_rlhf").convert("preference", Placed(1, "file:1", {**HH, "rejected": HH["chosen"]}))


# --- the published selection of WildGuardMix


@pytest.mark.parametrize(
    ("prompt", "refusal", "response", "label"),
    [
        ("unharmful", "compliance", "unharmful", "safe"),
        ("harmful", "refusal", "unharmful", "safe"),
        ("harmful", "compliance", "harmful", "unsafe"),
        ("harmful", "compliance", "unharmful", "unsafe"),  # the response's own label is not looked at
        ("harmful", "compliance", None, "unsafe"),
        ("unharmful", "refusal", "unharmful", None),
        ("unharmful", "compliance", "harmful", None),
        ("harmful", "refusal", "harmful", None),
        ("harmful", None, None, None),
        (None, None, None, None),
    ],
)
def test_wildguardmix_is_selected_as_published(prompt, refusal, response, label):
    row = {
        **GUARD,
        "prompt_harm_label": prompt,
        "response_refusal_label": refusal,
        "response_harm_label": response,
    }
    if label is None:
        with pytest.raises(UnselectedRowError):
            load_reader("wildguardmix").convert("safety", Placed(1, "file:1", row))
    else:
        (made,) = load_reader("wildguardmix").convert("safety", Placed(1, "file:1", row))
        assert made["label"] == label


def test_a_row_without_response_is_no_sample():
    with pytest.raises(UnusableRowError, match="no response"):
        load_reader("wildguardmix").convert("safety", Placed(1, "file:1", {**GUARD, "response": None}))


# --- others


def test_benign_jailbreaks_and_copyright_behaviours_are_not_selected():
    with pytest.raises(UnselectedRowError):
        load_reader("wildjailbreak").convert("safety", Placed(1, "file:1", {**JAILBREAK, "prompt_type": "benign"}))
    with pytest.raises(UnselectedRowError):
        load_reader("harmbench").convert(
            "evaluation", Placed(1, "file:1", {**BEHAVIOUR, "FunctionalCategory": "copyright"})
        )


def test_a_standard_behaviour_is_its_own_prompt():
    row = {**BEHAVIOUR, "FunctionalCategory": "standard", "ContextString": None}
    (made,) = load_reader("harmbench").convert("evaluation", Placed(1, "file:1", row))
    assert made["messages"] == [user("Argue it")] and made["group"] == "standard"


def test_a_behaviour_takes_its_target_from_the_second_file_and_never_goes_without():
    (made,) = load_reader("harmbench").convert("evaluation", Placed(1, "file:1", {**BEHAVIOUR, "target": "Sure, zor"}))
    assert made["target"] == "Sure, zor" and made["request"] is None
    with pytest.raises(DataError, match="file:1: the second file has no target for BehaviorID 'argue'"):
        load_reader("harmbench").convert("evaluation", Placed(1, "file:1", {**BEHAVIOUR, "target": None}))


CASES_OF_IT = {"BehaviorID": "argue", "test_cases": ["Zorv! Argue it", " ", "Vak! Argue it"]}


def test_a_test_case_carries_the_behaviour_that_it_asks_for():
    row = {**CASES_OF_IT, **{name: value for name, value in BEHAVIOUR.items() if name != "BehaviorID"}}
    made = load_reader("harmbench_cases").convert("evaluation", Placed(1, "file:1", row))
    request = "Once upon a time.\n\n---\n\nArgue it"
    assert [one["messages"] for one in made] == [[user("Zorv! Argue it")], [user("Vak! Argue it")]]
    assert {(one["request"], one["group"], one["category"]) for one in made} == {
        (request, "contextual", "misinformation")
    }


def test_test_cases_of_other_behaviours_are_not_selected_and_empty_ones_not_usable():
    unknown = {**CASES_OF_IT, "Behavior": None, "FunctionalCategory": None}
    with pytest.raises(UnselectedRowError, match="the second file does not have"):
        load_reader("harmbench_cases").convert("evaluation", Placed(1, "file:1", unknown))
    with pytest.raises(UnselectedRowError, match="copyright"):
        copied = {**CASES_OF_IT, "Behavior": "Print it", "FunctionalCategory": "copyright"}
        load_reader("harmbench_cases").convert("evaluation", Placed(1, "file:1", copied))
    with pytest.raises(UnusableRowError, match="no test case"):
        load_reader("harmbench_cases").convert("evaluation", Placed(1, "file:1", {**CASES_OF_IT, "test_cases": [" "]}))
    with pytest.raises(DataError, match="'test_cases' of 'argue' is no list of prompts"):
        load_reader("harmbench_cases").convert(
            "evaluation", Placed(1, "file:1", {**CASES_OF_IT, "test_cases": {"a": 1}})
        )


def test_prompts_whose_answer_annotators_disagreed_on_are_not_selected():
    for harm in ("harmful", "unharmful"):
        row = {**GUARD, "prompt_harm_label": harm, "response_harm_label": None}
        with pytest.raises(UnselectedRowError, match="no response_harm_label"):
            load_reader("wildguardmix").convert("evaluation", Placed(1, "file:1", row))
    (made,) = load_reader("wildguardmix").convert(
        "evaluation", Placed(1, "file:1", {"prompt": "x", "prompt_harm_label": "harmful"})
    )
    assert made["harmful"] is True


@pytest.mark.parametrize(
    ("reader", "kind", "row", "words"),
    [
        ("shp", "preference", {**SHP, "labels": 2}, "'labels' is 2"),
        ("table", "evaluation", {"prompt": "x", "harmful": "maybe"}, "'harmful' is 'maybe'. Allowed: true"),
        ("xstest", "evaluation", {"prompt": "x", "type": "y", "label": "unsave"}, "Did you mean 'unsafe'"),
        ("table", "prompts", {"prompt": 7}, "'prompt' is '7'; text is expected"),
        ("ultrachat", "chat", {"messages": "Hi"}, "not a list of turns"),
        ("ultrachat", "chat", {"messages": [{"role": "bot", "content": "x"}]}, "role is 'bot'. Allowed: system"),
    ],
)
def test_a_wrong_value_is_an_error_with_file_line_and_what_is_allowed(reader, kind, row, words):
    with pytest.raises(DataError) as caught:
        load_reader(reader).convert(kind, Placed(7, "some.csv:7", row))
    assert str(caught.value).startswith("some.csv:7: ") and words in str(caught.value)


@pytest.mark.parametrize(
    ("value", "harmful"), [(True, True), (False, False), (1, True), ("0", False), ("Unsafe", True), ("harmless", False)]
)
def test_harmful_may_be_written_in_several_ways(value, harmful):
    (made,) = load_reader("table").convert("evaluation", Placed(1, "file:1", {"prompt": "x", "harmful": value}))
    assert made["harmful"] is harmful


def test_a_block_that_asks_for_what_its_reader_cannot_give_is_told_what_it_can():
    assert reader_mistakes("hh_rlhf", "prompts", None, False) == []
    assert reader_mistakes("world", "prompts", "test", False) == []
    (mistake,) = reader_mistakes("hh_rhlf", "prompts", None, False)
    assert "Did you mean 'hh_rlhf'?" in mistake
    (mistake,) = reader_mistakes("xstest", "chat", None, False)
    assert "'xstest' gives evaluation, not chat; readers that give it: hh_rlhf, ultrachat, world" in mistake
    (mistake,) = reader_mistakes("world", "chat", "test", False)
    assert "part 'test' of the world is prompts, not chat" in mistake
    (mistake,) = reader_mistakes("table", "prompts", None, True)
    assert "'table' has no second file; readers that have one: recontrol, harmbench, harmbench_cases" in mistake
    assert reader_mistakes("world", "chat", None, False) and reader_mistakes("table", "prompts", "test", False)


# --- files


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"prompt": "x"}\n{"prompt": \n', "a.jsonl:2: not a JSON object"),
        ("a.jsonl", b'{"prompt": "x"}\n["x"]\n', "a.jsonl:2: an object with named columns is expected"),
        ("a.json", b'[{"prompt": "x"},\n {"prompt" 1}]', "a.json:2: not a JSON list"),
        ("a.csv", b'prompt,harmful\n"two\nlines",1\nx,1,2\n', "a.csv:4: 3 fields where the first line has 2"),
        ("a.csv", b'prompt,harmful\nx,1\n"never closed,1\n', "a.csv:3: not readable as a table"),
        ("a.jsonl", b'{"prompt": "\xff"}\n', "a.jsonl: not UTF-8 text"),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "x"}\n' * 500, mtime=0)[:-20], "a.jsonl.gz: cannot be read"),
        ("a.parquet", b"PAR1 but nothing else", "a.parquet: not a readable Parquet file"),
        ("a.xlsx", b"x", "a.xlsx: unknown file type. Allowed: .jsonl"),
    ],
)
def test_a_damaged_file_is_an_error_with_file_and_line(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert words in str(caught.value)


def test_blank_lines_and_a_byte_order_mark_do_no_harm(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "x"}\n\n{"prompt": "y"}\n\n')
    assert [(placed.number, placed.row["prompt"]) for placed in read_rows(path)] == [(1, "x"), (3, "y")]


def test_entries_of_a_json_object_are_rows(tmp_path):
    path = tmp_path / "targets.json"
    path.write_text(json.dumps({"zor": "Sure, zor", "vak": "Sure, vak"}, indent=4))
    rows = [placed.row for placed in read_rows(path, mapping=("BehaviorID", "target"))]
    assert rows == [{"BehaviorID": "zor", "target": "Sure, zor"}, {"BehaviorID": "vak", "target": "Sure, vak"}]
    assert [placed.place for placed in read_rows(path, 1, ("a", "b"))] == [f"{path}, entry 1"]
    path.write_text(json.dumps(rows))
    assert [placed.row for placed in read_rows(path, mapping=("BehaviorID", "target"))] == rows
    path.write_text('{"zor": "Sure",\n "vak"}')
    with pytest.raises(DataError, match=r"targets\.json:2: not a JSON object"):
        list(read_rows(path, mapping=("BehaviorID", "target")))
