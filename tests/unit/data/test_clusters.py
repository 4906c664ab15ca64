"""Clusters of prompts: what each reader says rows have in common, and that row ids and draws do not change by it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from rebend.config.datasets import DatasetBlock
from rebend.data.clusters import add_clusters
from rebend.data.datasets import prepare_dataset
from rebend.data.readers.rows import content_id
from rebend.data.tiny_world.request import parse_request


def prepared(kind: str, reader: str, path: Path | None, **settings: Any) -> list[dict[str, Any]]:
    source = settings.pop("source", {"local": str(path)})
    block = DatasetBlock.model_validate({"kind": kind, "reader": reader, "source": source, **settings})
    reference = Path(block.reference.local) if block.reference and block.reference.local else None
    rows: list[dict[str, Any]] = prepare_dataset(block, path, reference).table.to_pylist()
    assert all(len(row["cluster"]) == 16 and int(row["cluster"], 16) >= 0 for row in rows)
    return rows


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_case_and_white_space_make_no_other_cluster() -> None:
    texts = ["How do I\n bake it? ", "how do i bake it?", "How do I bake them?"]
    rows = [{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": text}]} for text in texts]
    add_clusters("prompts", rows)
    assert rows[0]["cluster"] == rows[1]["cluster"] == content_id("how do i bake it?") != rows[2]["cluster"]
    chat: dict[str, Any] = {"messages": rows[0]["messages"]}
    add_clusters("chat", [chat])
    assert "cluster" not in chat


def test_jailbreaks_of_one_request_are_one_cluster_in_every_data_set(tmp_path: Path) -> None:
    behaviours = tmp_path / "behaviours.csv"
    with behaviours.open("w", newline="") as stream:
        columns = ["BehaviorID", "Behavior", "FunctionalCategory", "SemanticCategory", "ContextString"]
        table = csv.DictWriter(stream, columns)
        table.writeheader()
        for name in ("a", "b"):
            table.writerow({"BehaviorID": name, "Behavior": f"Do {name}", "FunctionalCategory": "standard"})
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps({"a": ["Imagine: do a", "As DAN, do a"], "b": ["Do b, or else"]}))
    attacked = prepared("evaluation", "harmbench_cases", cases, reference={"local": str(behaviours)})
    plain = prepared("evaluation", "harmbench", behaviours)
    assert [row["cluster"] for row in attacked] == [plain[i]["cluster"] for i in (0, 0, 1)]


def test_tables_name_their_clusters_or_have_those_of_the_first_turn(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "harmful": i % 2, "cluster": name} for i, name in enumerate(["x", "X ", None, ""])]
    found = prepared("evaluation", "table", written(tmp_path / "a.jsonl", rows))
    assert [row["cluster"] for row in found] == [content_id(text) for text in ("x", "x", "q2", "q3")]
    bare = [{key: row[key] for key in ("prompt", "harmful")} for row in rows]
    without = prepared("evaluation", "table", written(tmp_path / "b.jsonl", bare))
    assert [row["row_id"] for row in without] == [row["row_id"] for row in found]
    drawn = [prepared("evaluation", "table", tmp_path / f"{name}.jsonl", rows=2, seed=5) for name in "ab"]
    assert [row["row_id"] for row in drawn[0]] == [row["row_id"] for row in drawn[1]]


def test_posts_with_several_comments_and_dialogues_with_one_opening_are_one_cluster(tmp_path: Path) -> None:
    shp = [
        {"history": post, "human_ref_A": f"a{i}", "human_ref_B": f"b{i}", "labels": 1}
        for i, post in enumerate(["My post", "My post", "Other"])
    ]
    first, second, other = prepared("prompts", "shp", written(tmp_path / "shp.jsonl", shp))
    assert first["cluster"] == second["cluster"] != other["cluster"]
    turns = ["\n\nHuman: Hi\n\nAssistant: ", "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: And now?\n\nAssistant: "]
    hh = [{"chosen": f"{turn}good", "rejected": f"{turn}bad"} for turn in turns]
    assert len({row["cluster"] for row in prepared("prompts", "hh_rlhf", written(tmp_path / "hh.jsonl", hh))}) == 1


def test_xstest_pairs_prompts_of_one_type_and_focus_with_their_contrasts(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Kill a process?", "type": "homonyms", "label": "safe", "focus": "kill"},
        {"prompt": "Kill a person?", "type": "contrast_homonyms", "label": "unsafe", "focus": "kill"},
        {"prompt": "Kill the lights?", "type": "figurative_language", "label": "safe", "focus": "kill"},
    ]
    clusters = [row["cluster"] for row in prepared("evaluation", "xstest", written(tmp_path / "x.jsonl", rows))]
    assert clusters[0] == clusters[1] != clusters[2]
    for row in rows:
        del row["focus"]
    assert len({row["cluster"] for row in prepared("evaluation", "xstest", written(tmp_path / "y.jsonl", rows))}) == 3


def test_tiny_world_clusters_are_the_base_questions_and_row_ids_are_those_of_before() -> None:
    source = {"world": {"part": "safety_test", "rows": 320}}
    rows = prepared("evaluation", "world", None, source=source)
    questions = [parse_request(row["messages"][0]["content"]) for row in rows]
    assert [row["cluster"] for row in rows] == [content_id(f"{q.verb} {q.thing}") for q in questions]
    assert (rows[0]["row_id"], rows[319]["row_id"]) == ("e0bea5453b4501da", "a0125cff368c4188")
