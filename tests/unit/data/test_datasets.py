"""Data sets: stable ids, draws, joined files and dropped rows, on small files and on real data sets."""

import collections
import csv
import gzip
import json
import os
import random
from pathlib import Path

import pytest

from rebend.config.datasets import DatasetBlock
from rebend.data.datasets import _checked, prepare_dataset
from rebend.data.readers.hh_rlhf import dialogue
from rebend.data.readers.world import WORLD
from rebend.errors import ConfigError, DataError
from rebend.io.schemas import KINDS

SHARED = Path(os.environ.get("REBEND_SHARED") or Path(__file__).parents[4] / "shared" / "data")
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real data sets; set REBEND_SHARED")


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prepare(kind, reader, path, reference=None, **settings):
    source = {"local": str(path)}
    second = {"local": str(reference)} if reference else None
    block = DatasetBlock(kind=kind, reader=reader, source=source, reference=second, **settings)
    return prepare_dataset(block, path, reference)


def ids(prepared):
    return prepared.table["row_id"].to_pylist()


PROMPTS = [{"prompt": f"question {number}?", "reference": f"answer {number}"} for number in range(40)]
PAIRS = [
    {
        "prompt": f"do {number}",
        "prompt_type": "harmful",
        "harmless_answer": f"I will not {number}.",
        "harmful_answer": f"Here: {number}.",
    }
    for number in range(30)
]


def test_table_has_the_schema_of_its_kind_and_ids_of_its_content(tmp_path):
    prepared = prepare("prompts", "table", lines(tmp_path / "a.jsonl", PROMPTS))
    assert prepared.table.schema.equals(KINDS["prompts"])
    assert prepared.read == 40 and prepared.dropped == {} and prepared.repeated == 0
    assert prepared.table["reference"].to_pylist() == [row["reference"] for row in PROMPTS]
    assert len(set(ids(prepared))) == 40
    changed = [{**PROMPTS[0], "reference": "another"}, *PROMPTS[1:]]
    other = prepare("prompts", "table", lines(tmp_path / "b.jsonl", changed))
    assert ids(other)[0] != ids(prepared)[0] and ids(other)[1:] == ids(prepared)[1:]


def test_row_id_is_the_same_in_every_version(tmp_path):
    prepared = prepare("prompts", "table", lines(tmp_path / "a.jsonl", [{"prompt": "Why?", "reference": "Für dich."}]))
    assert ids(prepared) == ["0eb524d3e4693266"]


def test_draw_does_not_depend_on_file_order_or_file_type(tmp_path):
    whole = prepare("prompts", "table", lines(tmp_path / "a.jsonl", PROMPTS))
    shuffled = random.Random(1).sample(PROMPTS, len(PROMPTS))
    drawn = prepare("prompts", "table", lines(tmp_path / "a2.jsonl", PROMPTS), rows=12, seed=3)
    again = prepare("prompts", "table", lines(tmp_path / "b.jsonl", shuffled), rows=12, seed=3)
    (tmp_path / "c.json").write_text(json.dumps(PROMPTS), encoding="utf-8")
    third = prepare("prompts", "table", tmp_path / "c.json", rows=12, seed=3)
    assert len(ids(drawn)) == 12
    assert set(ids(drawn)) == set(ids(again)) and ids(drawn) == ids(third)
    assert ids(drawn) == [row_id for row_id in ids(whole) if row_id in set(ids(drawn))]


def test_draw_depends_on_its_seed_and_contains_the_smaller_draw(tmp_path):
    path = lines(tmp_path / "a.jsonl", PROMPTS)
    small, large, other = (
        set(ids(prepare("prompts", "table", path, rows=rows, seed=seed))) for rows, seed in ((5, 0), (20, 0), (20, 1))
    )
    assert small < large and large != other


def test_skipped_and_kept_rows_are_disjoint(tmp_path):
    path = lines(tmp_path / "a.jsonl", PROMPTS)
    first, rest = prepare("prompts", "table", path, rows=15), prepare("prompts", "table", path, skip=15)
    assert len(ids(first)) == 15 and {*ids(first), *ids(rest)} == set(ids(prepare("prompts", "table", path)))
    assert not {*ids(first)} & {*ids(rest)}
    with pytest.raises(DataError, match="`rows: 26` after `skip: 15` asks for more than the 40 usable rows"):
        prepare("prompts", "table", path, rows=26, skip=15)
    with pytest.raises(DataError, match="every row after `skip: 40`"):
        prepare("prompts", "table", path, skip=40)


def test_repeated_rows_are_kept_with_a_suffix_and_counted(tmp_path):
    rows = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0]]
    prepared = prepare("prompts", "table", lines(tmp_path / "a.jsonl", rows))
    first = ids(prepared)[0]
    assert ids(prepared)[2:] == [f"{first}-2", f"{first}-3"] and prepared.repeated == 2


def test_repeated_pairs_keep_both_answers(tmp_path):
    prepared = prepare("safety", "wildjailbreak", lines(tmp_path / "a.jsonl", [PAIRS[0], PAIRS[1], PAIRS[0]]))
    pairs = collections.Counter(prepared.table["pair"].to_pylist())
    assert sorted(pairs.values()) == [2, 2, 2]
    assert len(set(ids(prepared))) == 6


def test_draw_of_pairs_keeps_both_answers(tmp_path):
    prepared = prepare("safety", "wildjailbreak", lines(tmp_path / "a.jsonl", PAIRS), rows=7)
    rows = prepared.table.to_pylist()
    assert len(rows) == 14
    by_pair = collections.defaultdict(set)
    for row in rows:
        by_pair[row["pair"]].add((row["label"], row["messages"][0]["content"]))
    for answers in by_pair.values():
        assert {label for label, _ in answers} == {"safe", "unsafe"} and len({prompt for _, prompt in answers}) == 1


def test_draw_of_single_answers_has_equal_numbers_of_each_label(tmp_path):
    labels = [("unharmful", "compliance", "unharmful")] * 20 + [("harmful", "compliance", "harmful")] * 9
    rows = [
        {
            "prompt": f"p{number}",
            "response": "r",
            "prompt_harm_label": prompt,
            "response_refusal_label": refusal,
            "response_harm_label": response,
        }
        for number, (prompt, refusal, response) in enumerate(labels)
    ]
    path = lines(tmp_path / "a.jsonl", rows)
    prepared = prepare("safety", "wildguardmix", path, rows=8)
    assert collections.Counter(prepared.table["label"].to_pylist()) == {"safe": 8, "unsafe": 8}
    with pytest.raises(DataError, match="`rows: 10` asks for more than the 9 usable unsafe rows"):
        prepare("safety", "wildguardmix", path, rows=10)


def guard_row(number, prompt, refusal, harm):
    return {
        "prompt": f"p{number}",
        "response": f"r{number}",
        "prompt_harm_label": prompt,
        "response_refusal_label": refusal,
        "response_harm_label": harm,
    }


@pytest.mark.parametrize(
    ("labels", "label"),
    [(("harmful", "compliance", "harmful"), "unsafe"), (("harmful", "refusal", "unharmful"), "safe")],
)
def test_safety_data_of_one_label_are_refused(tmp_path, labels, label):
    path = lines(tmp_path / "a.jsonl", [guard_row(number, *labels) for number in range(5)])
    with pytest.raises(DataError, match=f"a.jsonl: all 5 usable answers are {label}; safe and unsafe answers"):
        prepare("safety", "wildguardmix", path)


def test_published_data_mix_has_equal_numbers_of_each_part(tmp_path):
    """A small version: n safe and n unsafe single answers, n pairs, n retain chats; each draw depends on its seed."""
    classes = [
        ("unharmful", "compliance", "unharmful"),
        ("harmful", "refusal", "unharmful"),
        ("harmful", "compliance", "harmful"),
        ("harmful", "compliance", "unharmful"),  # unsafe for any label of the response
        ("unharmful", "refusal", "unharmful"),  # in no class
    ]
    guard = lines(tmp_path / "guard.jsonl", [guard_row(n, *classes[n % 5]) for n in range(100)])
    jail = lines(tmp_path / "jail.jsonl", [row for pair in PAIRS for row in (pair, {**pair, "prompt_type": "benign"})])
    chats = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]}
        for n in range(40)
    ]
    mix = {
        "samples": prepare("safety", "wildguardmix", guard, rows=10),
        "pairs": prepare("safety", "wildjailbreak", jail, rows=10),
        "retain": prepare("chat", "ultrachat", lines(tmp_path / "chat.jsonl", chats), rows=10),
    }
    for name in ("samples", "pairs"):
        assert collections.Counter(mix[name].table["label"].to_pylist()) == {"safe": 10, "unsafe": 10}
    assert set(mix["samples"].table["pair"].to_pylist()) == {None}
    assert len(set(mix["pairs"].table["pair"].to_pylist())) == 10 and mix["retain"].table.num_rows == 10
    assert mix["samples"].dropped == {"labels outside the published selection": 20}
    assert mix["pairs"].dropped == {"prompt_type is not harmful": 30}
    again = prepare("safety", "wildguardmix", guard, rows=10)
    other = prepare("safety", "wildguardmix", guard, rows=10, seed=1)
    assert again.table.equals(mix["samples"].table) and set(ids(other)) != set(ids(again))


def test_unusable_rows_are_counted_by_reason(tmp_path):
    rows = [
        *PROMPTS[:3],
        {"prompt": "  "},
        {"prompt": None},
        {"prompt": ""},
        {"prompt": "half \ud83d"},
        {"prompt": "Say hello", "reference": "Say hello "},
    ]
    prepared = prepare("prompts", "table", lines(tmp_path / "a.jsonl", rows))
    assert prepared.table.num_rows == 3 and prepared.read == 8
    assert prepared.dropped == {
        "empty prompt": 2,
        "no prompt": 1,
        "half a character (unpaired surrogate)": 1,
        "the prompt holds the answer": 1,
    }


def test_source_without_a_usable_row_is_an_error_with_the_reasons(tmp_path):
    with pytest.raises(DataError, match=r"no row can be used as chat by reader 'hh_rlhf' \(no final answer: 2\)"):
        row = {"chosen": "\n\nHuman: Hi", "rejected": "\n\nHuman: Hi"}
        prepare("chat", "hh_rlhf", lines(tmp_path / "a.jsonl", [row, row]))
    with pytest.raises(DataError, match="it holds no rows"):
        prepare("chat", "hh_rlhf", lines(tmp_path / "b.jsonl", []))


def test_damaged_last_line_is_an_error_with_its_number(tmp_path):
    path = lines(tmp_path / "a.jsonl", PROMPTS)
    path.write_text(path.read_text() + '{"prompt": "cut of')
    with pytest.raises(DataError, match=r"a\.jsonl:41: not a JSON object"):
        prepare("prompts", "table", path)


def test_draw_of_more_rows_than_exist_is_an_error(tmp_path):
    with pytest.raises(DataError, match="`rows: 41` asks for more than the 40 usable rows"):
        prepare("prompts", "table", lines(tmp_path / "a.jsonl", PROMPTS), rows=41)


def test_kind_that_the_reader_does_not_support_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'table' gives prompts, evaluation, not chat"):
        prepare("chat", "table", lines(tmp_path / "a.jsonl", PROMPTS))


# --- RE-Control's two files


def test_line_n_of_the_reference_answers_line_n_of_the_source(tmp_path):
    posts = lines(tmp_path / "posts.json", [{"post_id": str(n), "history": f"post {n}"} for n in range(5)])
    answers = lines(tmp_path / "prefer.json", [{"prefer": f"reply {n}"} for n in range(5)])
    rows = prepare("prompts", "recontrol", posts, answers).table.to_pylist()
    assert [(row["messages"][0]["content"], row["reference"]) for row in rows] == [
        (f"post {n}", f"reply {n}") for n in range(5)
    ]


POST, REPLY = '{"history": "x"}\n', '{"prefer": "y"}\n'


@pytest.mark.parametrize(
    ("posts", "answers", "message"),
    [
        (2 * POST, REPLY, r"prefer\.jsonl: line n must answer line n of .*posts\.jsonl:2 the file has ended"),
        (POST, 2 * REPLY, r"prefer\.jsonl:2: .*posts\.jsonl has no such line"),
        (POST + "\n" + POST, 2 * REPLY, r"at .*posts\.jsonl:3 the next row is .*prefer\.jsonl:2"),
    ],
)
def test_reference_with_other_line_numbers_is_refused(tmp_path, posts, answers, message):
    (tmp_path / "posts.jsonl").write_text(posts)
    (tmp_path / "prefer.jsonl").write_text(answers)
    with pytest.raises(DataError, match=message):
        prepare("prompts", "recontrol", tmp_path / "posts.jsonl", tmp_path / "prefer.jsonl")


def test_reference_without_its_column_is_an_error(tmp_path):
    posts = lines(tmp_path / "posts.jsonl", [{"history": "post"}])
    answers = lines(tmp_path / "prefer.jsonl", [{"preferred": "reply"}])
    with pytest.raises(DataError, match=r"prefer\.jsonl:1: column 'prefer' is missing.*Did you mean 'preferred'"):
        prepare("prompts", "recontrol", posts, answers)


# --- HarmBench's files, joined by BehaviorID

BEHAVIOURS = [
    {"Behavior": "zor it", "FunctionalCategory": "standard", "SemanticCategory": "a", "BehaviorID": "zor"},
    {"Behavior": "vak it", "FunctionalCategory": "copyright", "SemanticCategory": "b", "BehaviorID": "vak"},
    {"Behavior": "bim it", "FunctionalCategory": "contextual", "SemanticCategory": "c", "BehaviorID": "bim"},
]
for behaviour in BEHAVIOURS:
    behaviour["ContextString"] = "A tale of bim." if behaviour["BehaviorID"] == "bim" else ""
CONTEXTUAL = "A tale of bim.\n\n---\n\nbim it"


def write_json(path, content):
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")
    return path


def test_targets_are_joined_by_behaviour_in_any_order(tmp_path):
    targets = write_json(tmp_path / "targets.json", {name: f"Sure, {name}" for name in ("bim", "spare", "vak", "zor")})
    prepared = prepare("evaluation", "harmbench", lines(tmp_path / "b.jsonl", BEHAVIOURS), targets)
    rows = {row["messages"][0]["content"]: row for row in prepared.table.to_pylist()}
    assert {prompt: row["target"] for prompt, row in rows.items()} == {"zor it": "Sure, zor", CONTEXTUAL: "Sure, bim"}
    assert rows[CONTEXTUAL]["group"] == "contextual" and prepared.dropped == {"copyright behaviour": 1}
    without = prepare("evaluation", "harmbench", tmp_path / "b.jsonl").table
    assert without["target"].to_pylist() == ["", ""]


def test_behaviour_without_target_or_key_is_an_error(tmp_path):
    targets = write_json(tmp_path / "targets.json", {"bim": "Sure, bim"})
    with pytest.raises(DataError, match=r"b\.jsonl:1: the second file has no target for BehaviorID 'zor'"):
        prepare("evaluation", "harmbench", lines(tmp_path / "b.jsonl", BEHAVIOURS), targets)
    nameless = [{name: value for name, value in BEHAVIOURS[0].items() if name != "BehaviorID"}]
    with pytest.raises(DataError, match=r"c\.jsonl:1: column 'BehaviorID' is missing"):
        prepare("evaluation", "harmbench", lines(tmp_path / "c.jsonl", nameless), targets)
    doubled = lines(tmp_path / "d.jsonl", [{"BehaviorID": "zor", "target": "Sure"}] * 2)
    with pytest.raises(DataError, match=r"d\.jsonl:2: BehaviorID 'zor' occurs twice"):
        prepare("evaluation", "harmbench", tmp_path / "b.jsonl", doubled)


def test_each_test_case_is_a_prompt_with_its_behaviour_as_the_request(tmp_path):
    cases = {name: [f"Zorv {number}! {name} it" for number in range(5)] for name in ("zor", "vak", "bim", "validation")}
    behaviours = lines(tmp_path / "b.jsonl", BEHAVIOURS)
    prepared = prepare("evaluation", "harmbench_cases", write_json(tmp_path / "test_cases.json", cases), behaviours)
    counts = collections.Counter((row["request"], row["group"], row["category"]) for row in prepared.table.to_pylist())
    assert counts == {("zor it", "standard", "a"): 5, (CONTEXTUAL, "contextual", "c"): 5}
    assert prepared.read == 4 and len(set(ids(prepared))) == 10
    assert prepared.dropped == {
        "copyright behaviour": 1,
        "test case of a behaviour that is not in the second file": 1,
    }


# --- `stratified`


def test_stratified_parts_share_no_row_and_have_each_category_in_proportion(tmp_path):
    table = [{"prompt": f"{name} {n}", "harmful": "yes", "category": name} for name in "aaaabbc" for n in range(5)]
    path = lines(tmp_path / "a.jsonl", table)  # 20 rows of a (5 of them 4 times), 10 of b, 5 of c

    def drawn(**settings):
        rows = prepare("evaluation", "table", path, stratified=True, **settings).table.to_pylist()
        return {row["row_id"]: row["category"] for row in rows}

    for seed in range(4):
        first, second = drawn(rows=14, seed=seed), drawn(rows=14, skip=14, seed=seed)
        rest = drawn(skip=28, seed=seed)
        assert collections.Counter(first.values()) == collections.Counter(second.values()) == {"a": 8, "b": 4, "c": 2}
        assert collections.Counter(rest.values()) == {"a": 4, "b": 2, "c": 1}
        assert len({**first, **second, **rest}) == 35
        assert set(first) < set(drawn(rows=20, seed=seed))
    assert set(drawn(rows=14, seed=0)) != set(drawn(rows=14, seed=1))


# --- `only`


def test_only_keeps_the_rows_with_its_words(tmp_path):
    rows = [{"adversarial": f"play {n}", "data_type": f"adversarial_{('benign', 'harmful')[n % 2]}"} for n in range(10)]
    path = lines(tmp_path / "a.jsonl", rows)
    benign = prepare("evaluation", "wildjailbreak", path, only={"data_type": "adversarial_benign"})
    assert benign.table["harmful"].to_pylist() == [False] * 5
    assert benign.dropped == {"data_type has a value that `only` excludes": 5}
    both = prepare(
        "evaluation", "wildjailbreak", path, only={"data_type": ["adversarial_benign", "adversarial_harmful"]}
    )
    assert both.table.num_rows == 10
    with pytest.raises(
        DataError, match=r"a\.jsonl:1: column 'datatype' of `only` is missing.*Did you mean 'data_type'"
    ):
        prepare("evaluation", "wildjailbreak", path, only={"datatype": "adversarial_benign"})
    with pytest.raises(DataError, match=r"no row can be used .*data_type has a value that `only` excludes: 10"):
        prepare("evaluation", "wildjailbreak", path, only={"data_type": "benign"})


# --- checks of converted rows


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("prompts", {"messages": [{"role": "assistant", "content": "x"}]}),
        ("prompts", {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}),
        ("prompts", {"group": None}),
        ("prompts", {"extra": "x"}),
        ("prompts", {"reference": 3}),
        ("chat", {}),
        ("evaluation", {"target": "", "category": "", "request": None, "harmful": None}),
        ("evaluation", {"target": "", "category": "", "request": None, "harmful": "true"}),
        ("evaluation", {"target": "", "category": "", "request": 3, "harmful": True}),
    ],
)
def test_row_without_the_fields_of_its_kind_is_refused(kind, change):
    good = {"messages": [{"role": "user", "content": "x"}], "reference": None, "group": ""}
    assert _checked("prompts", good) == good
    with pytest.raises(Exception, match=r"expected|end with|begins with"):
        _checked(kind, {"messages": good["messages"]} if kind == "chat" else {**good, **change})


@pytest.mark.parametrize(("part", "kind"), WORLD.parts.items())
def test_each_part_of_the_tiny_world_has_the_schema_of_its_kind(part, kind):
    block = DatasetBlock(kind=kind, reader="world", source={"world": {"part": part, "rows": 30}})
    prepared = prepare_dataset(block)
    assert prepared.table.num_rows == 30 and prepared.table.schema.equals(KINDS[kind])
    assert len(set(ids(prepared))) == 30 and prepared.repeated == 0
    assert prepare_dataset(block).table.equals(prepared.table)


# --- real data sets


@pytest.mark.shared
@needs_shared
@pytest.mark.parametrize("name", ["train", "test"])
def test_prompts_of_hh_do_not_contain_their_reference(name):
    path = SHARED / "hh_rlhf" / f"{name}.jsonl.gz"
    prepared = prepare("prompts", "hh_rlhf", path)
    assert (
        prepared.table.num_rows + sum(prepared.dropped.values()) == prepared.read == {"train": 2000, "test": 200}[name]
    )
    assert prepared.table.num_rows > 0.99 * prepared.read
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        published = {json.dumps(dialogue(json.loads(line)["chosen"])) for line in stream}
    for row in prepared.table.to_pylist():
        answer = row["reference"]
        # Prompt and answer together are the published dialogue: no turn is lost or repeated.
        assert json.dumps([*row["messages"], {"role": "assistant", "content": answer}]) in published
        assert row["messages"][-1]["role"] == "user"
        assert all(turn["content"] != answer for turn in row["messages"])
        # A short answer like "Yes." may occur in a question, a sentence may not.
        assert len(answer) < 10 or not any(answer in turn["content"] for turn in row["messages"])


@pytest.mark.shared
@needs_shared
def test_preference_and_safety_rows_of_hh():
    prepared = prepare("preference", "hh_rlhf", SHARED / "hh_rlhf" / "train.jsonl.gz")
    assert prepared.table.num_rows > 1980
    assert all(row["chosen"] != row["rejected"] for row in prepared.table.to_pylist())
    safety = prepare("safety", "hh_rlhf", SHARED / "hh_rlhf" / "train.jsonl.gz", rows=100)
    assert collections.Counter(safety.table["label"].to_pylist()) == {"safe": 100, "unsafe": 100}


@pytest.mark.shared
@needs_shared
def test_references_of_shp_belong_to_their_posts():
    posts, answers = SHARED / "shp" / "test.jsonl", SHARED / "shp" / "prefer.jsonl.gz"
    rows = prepare("prompts", "recontrol", posts, answers).table.to_pylist()
    with posts.open(encoding="utf-8") as stream:
        histories = [json.loads(line)["history"] for line in stream]
    with gzip.open(answers, "rt", encoding="utf-8") as stream:
        preferred = [json.loads(line)["prefer"] for line in stream]
    assert len(rows) == 300
    assert {row["messages"][0]["content"]: row["reference"] for row in rows} == dict(
        zip(histories, preferred, strict=True)
    )
    drawn = prepare("prompts", "recontrol", posts, answers, rows=50).table.to_pylist()
    assert all(row in rows for row in drawn)


@pytest.mark.shared
@needs_shared
def test_benchmarks_have_their_published_counts(tmp_path):
    xstest = prepare("evaluation", "xstest", SHARED / "xstest" / "xstest_prompts.csv").table
    assert collections.Counter(xstest["harmful"].to_pylist()) == {False: 250, True: 200}
    harmbench = prepare("evaluation", "harmbench", SHARED / "harmbench" / "behaviors_text_test.csv").table
    assert collections.Counter(harmbench["group"].to_pylist()) == {"standard": 50, "contextual": 10}
    with (SHARED / "harmbench" / "behaviors_text_test.csv").open(encoding="utf-8", newline="") as stream:
        names = [row["BehaviorID"] for row in csv.DictReader(stream)]
    targets = write_json(tmp_path / "targets.json", {name: f"Sure, {name}" for name in reversed(names)})
    aimed = prepare("evaluation", "harmbench", SHARED / "harmbench" / "behaviors_text_test.csv", targets).table
    assert aimed["target"].to_pylist() == [f"Sure, {name}" for name in names]
    assert aimed["messages"].equals(harmbench["messages"])
    for row in harmbench.to_pylist():
        assert ("\n\n---\n\n" in row["messages"][0]["content"]) == (row["group"] == "contextual")
    strongreject = prepare("evaluation", "strongreject", SHARED / "strongreject" / "strongreject_60.csv").table
    assert strongreject.num_rows == 60 and set(strongreject["harmful"].to_pylist()) == {True}
    simple = prepare(
        "evaluation", "simple_safety_tests", SHARED / "simple_safety_tests" / "prompts_80.csv", rows=60, stratified=True
    ).table
    assert list(collections.Counter(simple["category"].to_pylist()).values()) == [15] * 4


@pytest.mark.shared
@needs_shared
def test_all_retain_chats_are_used():
    prepared = prepare("chat", "ultrachat", SHARED / "retain" / "chat_500.jsonl.gz")
    assert prepared.table.num_rows == 500 and prepared.dropped == {}
    assert all(row["messages"][-1]["role"] == "assistant" for row in prepared.table.to_pylist())
