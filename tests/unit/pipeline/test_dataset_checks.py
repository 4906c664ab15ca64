"""Data sets made from others are checked before any job: judges, models, circles, the file of refusals."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace as Names
from typing import Any

import pytest
from pydantic import ValidationError

from rebend.config.catalogue import block_class
from rebend.config.datasets import DatasetBlock, SampledChatsBlock, SampledPairsBlock
from rebend.config.load import Config
from rebend.config.models import ModelBlock
from rebend.config.safety import RefusalMatcherBlock, RubricJudgeBlock, WorldTruthBlock
from rebend.config.study import Study
from rebend.data.readers.registry import reader_mistakes
from rebend.io.files import write_json
from rebend.pipeline.checks.datasets import dataset_mistakes, is_of_world, too_few_mistakes
from rebend.pipeline.checks.files import table_mistakes
from rebend.pipeline.graph import paths
from rebend.pipeline.stages.made_datasets import sampled_least, sampled_settings

WORLD = {"kind": "evaluation", "reader": "world", "source": {"world": {"part": "safety_validation", "rows": 4}}}
TABLE = {"kind": "evaluation", "reader": "table", "source": {"local": "x.csv"}}
AS_WRITTEN = "resources/templates/as_written.jinja"
PAIRS = {
    "kind": "safety",
    "reader": "sampled_pairs",
    "model": "m",
    "prompts": ["asked"],
    "judge": "rules",
    "safe": {"file": "refusals.csv"},
}

CHATS = {"kind": "chat", "reader": "sampled_chats", "model": "m", "prompts": ["asked", "plain"], "judge": "rules"}
PROMPTS = {**TABLE, "kind": "prompts"}


def catalogue(**datasets: Any) -> dict[str, Any]:
    blocks = {"asked": TABLE, "world": WORLD, "pairs": PAIRS, **datasets}
    return {
        "datasets": {name: block_class("datasets", block).model_validate(block) for name, block in blocks.items()},  # type: ignore[union-attr]
        "models": {
            "m": ModelBlock.model_validate({"local": "m"}),
            "released": ModelBlock.model_validate(
                {"local": "m", "variant": "released_code", "chat_template": AS_WRITTEN}
            ),
            "taught": ModelBlock.model_validate({"tiny": {"datasets": ["pairs"]}}),
        },
        "safety_judges": {
            "rules": RefusalMatcherBlock(method="refusal_matcher"),
            "truth": WorldTruthBlock(method="world_truth"),
            "asking": RubricJudgeBlock.model_validate({"method": "rubric", "model": "judge-2026-01-01"}),
        },
        "encoders": {},
    }


def mistakes(name: str = "pairs", **datasets: Any) -> list[str]:
    return dataset_mistakes(catalogue(**datasets), name)


def test_finished_samples_fewer_than_least_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(paths.record(paths.data("pairs")), {"notes": {"rows": 20, "pairs": 10}})
    write_json(paths.record(paths.data("chats")), {"notes": {"rows": 10}})
    enough = catalogue(pairs={**PAIRS, "least": 10}, chats={**CHATS, "least": 10})
    assert not list(too_few_mistakes(enough, ["pairs", "chats"]))
    more = catalogue(pairs={**PAIRS, "least": 11}, chats={**CHATS, "least": 12})
    of_pairs, of_chats = too_few_mistakes(more, ["pairs", "chats"])
    assert of_pairs.startswith("datasets.pairs.least: 11 pairs are asked for, and results/data/pairs.parquet has 10;")
    assert of_chats.startswith("datasets.chats.least: 12 chats are asked for, and results/data/chats.parquet has 10;")


@pytest.mark.parametrize("block", [PAIRS, CHATS])
def test_least_is_a_resource_and_no_setting_of_the_job(block: dict[str, Any]) -> None:
    study = Study.model_validate({"title": "t", "grids": [{"models": ["m"], "prompts": ["plain"]}]})
    config, names = Config("s", study, Path("data"), catalogue(rows={**block, "least": 7})), Names(dataset="rows")
    assert "least" not in sampled_settings(config, names)["block"]
    assert sampled_least(config, names) == "7"


def test_valid_blocks_give_no_message() -> None:
    joined = {"kind": "evaluation", "reader": "joined", "datasets": ["world", "asked"]}
    assert mistakes() == mistakes("joined", joined=joined) == []
    assert mistakes(pairs={**PAIRS, "judge": "truth", "prompts": ["world"]}) == []


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"judge": "asking"}, "datasets.pairs.judge: 'asking' (method rubric) is behind an address"),
        (
            {"judge": "truth"},
            "datasets.pairs.judge: 'truth' judges only data of the tiny world; 'asked' (in `prompts`)",
        ),
        ({"model": "released"}, "datasets.pairs.model: 'released' is of `variant: released_code`"),
        ({"model": "taught"}, "datasets.pairs.model: leads back to 'pairs'"),
        ({"without": ["pairs"]}, "datasets.pairs.without: leads back to 'pairs'; give it a `without` of its own"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(keys: dict[str, Any], message: str) -> None:
    (mistake,) = mistakes(pairs={**PAIRS, **keys})
    assert mistake.startswith(message)


def test_chats_take_prompts_of_two_kinds_that_are_dialogues() -> None:
    released = {**PROMPTS, "reader": "hh_rlhf", "variant": "released_code"}
    assert mistakes("chats", chats=CHATS, plain=PROMPTS) == []
    (of_pairs,) = mistakes("chats", chats={**CHATS, "prompts": ["plain", "pairs"]}, plain=PROMPTS)
    assert of_pairs == ("datasets.chats.prompts: 'pairs' is of kind 'safety'; kind 'prompts' or 'evaluation' is needed")
    (of_texts,) = mistakes("chats", chats=CHATS, plain=released)
    assert of_texts.startswith("datasets.chats.prompts: 'plain' is of `variant: released_code`")
    (of_judge,) = mistakes("chats", chats={**CHATS, "judge": "asking"}, plain=PROMPTS)
    assert of_judge.startswith("datasets.chats.judge: 'asking' (method rubric) is behind an address")


def test_joined_data_are_of_one_kind() -> None:
    chats = {"kind": "chat", "reader": "joined", "datasets": ["own", "both"]}
    own = {"kind": "chat", "reader": "ultrachat", "source": {"local": "x.jsonl"}}
    assert mistakes("both", both={**chats, "datasets": ["own"]}, own=own) == []
    (mistake,) = mistakes("chats", chats=chats, own=own, both=PROMPTS)
    assert mistake == "datasets.chats.datasets: 'both' is of kind 'prompts'; kind 'chat' is needed"
    (mistake,) = mistakes("both", both={**chats, "kind": "evaluation", "datasets": ["asked", "own"]}, own=own)
    assert mistake == "datasets.both.datasets: 'own' is of kind 'chat'; kind 'evaluation' is needed"


def test_circle_through_the_prompts_is_refused() -> None:
    (mistake,) = mistakes(asked={**TABLE, "without": ["pairs"]})
    assert mistake == "datasets.pairs.prompts: leads back to 'pairs'"


def test_joined_data_are_of_the_world_if_all_parts_are() -> None:
    both = {"kind": "evaluation", "reader": "joined", "datasets": ["world", "asked"]}
    blocks = catalogue(both=both, all={**both, "datasets": ["world"]})
    assert [is_of_world(blocks, name) for name in ("world", "asked", "both", "all")] == [True, False, False, True]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"decoding": {"max_new_tokens": 8}}, "`tries: 4` needs sampling; `decoding.temperature` is 0"),
        ({"tries": 1, "answers_per_prompt": 2}, "`tries: 1` is less than `answers_per_prompt: 2`"),
        ({"safe": {}}, "needs exactly one of file, instruction"),
        ({"safe": {"file": "x", "instruction": "y"}}, "needs exactly one of file, instruction"),
        ({"prompts": []}, "at least 1 item"),
        ({"near": {"encoder": "e", "data": ["asked"], "cosine": 1.2}}, "less than or equal to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SampledPairsBlock.model_validate({**PAIRS, **keys})


def test_one_greedy_try_is_allowed() -> None:
    assert SampledPairsBlock.model_validate({**PAIRS, "tries": 1, "decoding": {}}).decoding.temperature == 0


def test_chats_are_greedy_unless_the_block_says_so() -> None:
    assert SampledChatsBlock.model_validate(CHATS).decoding.temperature == 0


def test_unknown_reader_names_those_of_made_data_too() -> None:
    assert block_class("datasets", {"reader": "sampled_pair"}) is DatasetBlock
    (mistake,) = reader_mistakes("sampled_pair", "safety", None, False)
    assert mistake.endswith("Did you mean 'sampled_pairs'?")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("refusals\nNo.\n", "column 'refusal' is missing. Found: refusals. Did you mean 'refusals'?"),
        ("refusal\n", "holds no rows"),
    ],
)
def test_file_of_refusals_is_checked(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "own.csv"
    if text is not None:
        file.write_text(text)
    (mistake,) = table_mistakes(file, "refusal")
    assert mistake.startswith(str(file)) and message in mistake
    file.write_text("note,refusal\na,No.\n")
    assert table_mistakes(file, "refusal") == []
