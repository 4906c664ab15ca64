"""Prompts that two data sets share are found by content; a data set can leave out the prompts of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from rebend.config.datasets import DatasetBlock
from rebend.data.datasets import prepare_dataset
from rebend.data.overlap import check_overlap, prompts_of
from rebend.errors import ConfigError, DataError
from rebend.io.files import write_parquet
from rebend.io.prompts import prompts_in
from rebend.io.schemas import KINDS
from rebend.pipeline.checks.study import load_plan

ROOT = Path(__file__).parents[3]


def turns(*contents: str) -> list[dict[str, str]]:
    """Return turns of user and assistant in alternation."""
    return [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]


def table(path: Path, kind: str, *dialogues: list[dict[str, str]]) -> Path:
    """Write a prepared data set with these messages; all other columns are empty."""
    rows = [{"row_id": str(n), "messages": messages} for n, messages in enumerate(dialogues)]
    write_parquet(path, pa.Table.from_pylist(rows, KINDS[kind]))
    return path


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (turns("Why is ice cold?"), True),
        (turns("  why is\n\nICE   cold? "), True),
        ([{"role": "system", "content": "Be brief."}, *turns("Why is ice cold?")], True),
        (turns("Why is ice cold?", "Physics."), True),  # a chat with this request
        (turns("Why is ice cold?", "Physics.", "More", "No."), True),  # its first request
        (turns("Hi", "Hello.", "Why is ice cold?"), False),  # another prompt: it has turns before
        (turns("Why is ice cold?", "Physics.", "More"), False),
        (turns("Why is ice cold"), False),
    ],
)
def test_prompts_are_the_same_by_their_turns(other: Any, same: bool) -> None:
    assert bool(set(prompts_in(turns("Why is ice cold?"))) & set(prompts_in(other))) == same


def test_shared_prompts_are_refused_with_both_names_a_count_and_an_example(tmp_path: Path) -> None:
    reported = table(tmp_path / "r", "prompts", turns("one"), turns("Two"), turns("three"), turns("a", "b", "c"))
    clean = table(tmp_path / "c", "safety", turns("four"), turns("c"))
    shared = table(tmp_path / "s", "chat", turns("TWO", "x"), turns("one", "y", "z", "x"), turns("five", "x"))
    assert check_overlap("test", reported, [("clean", "adapters.a.examples", clean)]) == {"test": 4, "clean": 2}
    uses = [("clean", "adapters.a.examples", clean), ("chats", "models.m.tiny.datasets", shared)]
    words = r"datasets\.test: 2 of its 4 prompts are also in 'chats' \(models\.m\.tiny\.datasets\), e\.g\. 'one'"
    with pytest.raises(DataError, match=words) as caught:
        check_overlap("test", reported, uses)
    assert "without: [test]" in str(caught.value) and "'clean'" not in str(caught.value)


def test_rows_with_prompts_of_another_data_set_are_left_out_before_the_draw(tmp_path: Path) -> None:
    file = tmp_path / "all.csv"
    file.write_text("prompt\n" + "".join(f"question {n}\n" for n in range(10)), encoding="utf-8")
    reported = table(tmp_path / "reported", "prompts", turns("Question 3"), turns("question  7"), turns("other"))
    block = DatasetBlock(kind="prompts", reader="table", source={"local": "x"}, rows=8, without=["reported"])
    prepared = prepare_dataset(block, file, None, {"reported": prompts_of(reported)})
    kept = {row["messages"][0]["content"] for row in prepared.table.to_pylist()}
    assert kept == {f"question {n}" for n in range(10) if n not in (3, 7)}
    assert prepared.dropped == {"prompt of 'reported'": 2}
    more = block.model_copy(update={"rows": 9})
    with pytest.raises(DataError, match="asks for more than the 8 usable rows"):
        prepare_dataset(more, file, None, {"reported": prompts_of(reported)})


def plan(study: str, **change: Any) -> Any:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    for name, keys in change.items():
        raw["datasets"][name].update(keys)
    return load_plan({**raw, "study": study}, ROOT / "config/studies")


def test_everything_that_learns_is_kept_apart_from_reported_and_chosen_data() -> None:
    tiny = plan("tiny")
    learnt = {
        "tiny_dialogues", "tiny_preferences", "tiny_heldout_preferences", "tiny_safety", "tiny_retain",
        "tiny_rollout_prompts",
    }  # fmt: skip
    assert set(tiny.kept_apart("tiny_validation")) == learnt
    for reported in ("tiny_test", "tiny_safety_test", "tiny_answers_test"):
        assert set(tiny.kept_apart(reported)) == learnt | {"tiny_validation"}
    assert set(tiny.reported) == {"tiny_test", "tiny_safety_test", "tiny_answers_test"}
    assert tiny.kept_apart("tiny_test")["tiny_rollout_prompts"] == "activations.tiny_rollouts.dataset"
    checks = {f"results/overlap/{name}.json" for name in (*tiny.reported, "tiny_validation")}
    assert checks <= set(tiny.inputs())


@pytest.mark.parametrize("study", ["paper_recontrol", "paper_repbend", "real_small"])
def test_studies_leave_out_of_the_learnt_data_what_they_choose_or_report_on(study: str) -> None:
    """Draws from one source, or from sources of one data set, share prompts unless they are left out."""
    made = plan(study)
    blocks = made.config["datasets"]
    same = [  # (chosen or reported, learnt) from the same repository or folder, in the same form of text
        (name, other)
        for name in (*made.reported, *made.chosen_on)
        for other in made.kept_apart(name)
        if origin(blocks[name]) == origin(blocks[other]) and form(blocks[name]) == form(blocks[other])
    ]
    assert same
    assert [pair for pair in same if pair[0] not in blocks[pair[1]].without] == []


def origin(block: DatasetBlock) -> str:
    """Return the repository on the hub, the top folder of a file, or the repository of an address."""
    hub, url = block.source.hub, block.source.url
    if hub:
        return hub.repo
    return "/".join(url.split("/")[:5]) if url else (block.source.local or "").split("/")[0]


def form(block: DatasetBlock) -> Any:
    return block.variant, block.user_word


def test_data_set_that_is_left_out_of_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"datasets\.hh_test\.without: leads back to 'hh_test'"):
        plan("real_small", hh_test={"without": ["hh_rollouts"]})
    with pytest.raises(ConfigError, match=r"datasets\.hh_test\.without: no block 'hh_tests'.*Did you mean 'hh_test"):
        plan("real_small", hh_test={"without": ["hh_tests"]})
