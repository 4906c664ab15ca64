"""Old keys give the same configuration as current keys, with one warning per key."""

from __future__ import annotations

import copy
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rebend.config.aliases import renamed_catalogue, renamed_study
from rebend.config.load import load_config
from rebend.errors import ConfigError

ROOT = Path(__file__).parents[3]
CATALOGUE = (ROOT / "config/config.yaml").read_text(encoding="utf-8")
TINY = (ROOT / "config/studies/tiny.yaml").read_text(encoding="utf-8")

# Current text → text of the previous version
OLD_CATALOGUE = {
    r"^adapters:": "bends:",
    r"^value_models:": "values:",
    r"\bresources: \{": "needs: {",
    r"\bpaired_examples:": "pairs:",
    r"\bretain_chats: (?=[a-z])": "retain: ",  # not the data set of this name
    r"\bexamples: (?=[a-z])": "samples: ",  # not the key of a capability benchmark, which holds keys
    r"\{ adapter: ": "{ bend: ",
    r"\btd_lambda:": "trace:",
    r"\bvalue_model:": "value:",
}
OLD_VARIANTS = {  # of adapters and the sections after them; data sets, models and rewards never had `fidelity`
    r"\bvariant: released_code\b": "fidelity: published",
    r"\bvariant: corrected\b": "fidelity: corrected",
}
OLD_STUDY = {r"\badapters:": "bends:", r"\badapter: ": "bend: ", r"compares: adapter": "compares: bend"}


def replaced(text: str, names: dict[str, str]) -> str:
    for new, old in names.items():
        text = re.sub(new, old, text, flags=re.MULTILINE)
    return text


def old_catalogue_text() -> str:
    before, adapters, after = CATALOGUE.partition("\nadapters:")
    return replaced(before + adapters + replaced(after, OLD_VARIANTS), OLD_CATALOGUE)


def catalogue(text: str = CATALOGUE) -> dict[str, Any]:
    return yaml.safe_load(text)


def old_keys(warnings: list[str]) -> list[tuple[str, str]]:
    """Return the old and the new key of each warning."""
    return [tuple(re.findall(r"`([^`]+)`", line)[:2]) for line in warnings]


def test_old_configuration_gives_the_same_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tiny.yaml").write_text(replaced(TINY, OLD_STUDY), encoding="utf-8")
    old = catalogue(old_catalogue_text())
    assert "adapters" not in old and "trace" in old["values"]["tiny_value"]
    with caplog.at_level(logging.WARNING):
        loaded = load_config({**old, "study": "tiny"}, tmp_path)
    assert loaded == load_config({**catalogue(), "study": "tiny"}, ROOT / "config/studies")
    assert sorted(old_keys(caplog.messages)) == sorted(
        [
            ("bends", "adapters"),
            ("values", "value_models"),
            ("needs", "resources"),
            ("samples", "examples"),
            ("pairs", "paired_examples"),
            ("retain", "retain_chats"),
            ("fidelity", "variant"),
            ("bend", "adapter"),
            ("trace", "td_lambda"),
            ("value", "value_model"),
            ("bends", "adapters"),  # of the study
            ("bend", "adapter"),
            ("compares: bend", "compares: adapter"),
        ]
    )


def test_current_configuration_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_config({**catalogue(), "study": "tiny"}, ROOT / "config/studies")
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ({"bends": {"b": {"lr": 1}}}, {"adapters": {"b": {"lr": 1}}}, "bends"),
        ({"values": {"v": {"epochs": 1}}}, {"value_models": {"v": {"epochs": 1}}}, "values"),
        ({"models": {"m": {"needs": {"gpu": 1}}}}, {"models": {"m": {"resources": {"gpu": 1}}}}, "needs"),
        ({"rewards": {"m": {"needs": {"gpu": 1}}}}, {"rewards": {"m": {"resources": {"gpu": 1}}}}, "needs"),
        ({"encoders": {"m": {"needs": {"gpu": 1}}}}, {"encoders": {"m": {"resources": {"gpu": 1}}}}, "needs"),
        ({"safety_judges": {"m": {"needs": {}}}}, {"safety_judges": {"m": {"resources": {}}}}, "needs"),
        ({"adapters": {"b": {"samples": "d"}}}, {"adapters": {"b": {"examples": "d"}}}, "samples"),
        ({"adapters": {"b": {"pairs": "d"}}}, {"adapters": {"b": {"paired_examples": "d"}}}, "pairs"),
        ({"adapters": {"b": {"retain": "d"}}}, {"adapters": {"b": {"retain_chats": "d"}}}, "retain"),
        ({"adapters": {"b": {"fidelity": "published"}}}, {"adapters": {"b": {"variant": "released_code"}}}, "fidelity"),
        ({"adapters": {"b": {"fidelity": "corrected"}}}, {"adapters": {"b": {"variant": "corrected"}}}, "fidelity"),
        (
            {"adapters": {"b": {"fidelity": {"sweep": ["published", "corrected"]}}}},
            {"adapters": {"b": {"variant": {"sweep": ["released_code", "corrected"]}}}},
            "fidelity",
        ),
        (
            {"adapters": {"b": {"parts": [{"bend": "c", "factor": 1.0}]}}},
            {"adapters": {"b": {"parts": [{"adapter": "c", "factor": 1.0}]}}},
            "bend",
        ),
        (
            {"value_models": {"v": {"fidelity": "published"}}},
            {"value_models": {"v": {"variant": "released_code"}}},
            "fidelity",
        ),
        ({"value_models": {"v": {"trace": 0.5}}}, {"value_models": {"v": {"td_lambda": 0.5}}}, "trace"),
        ({"controls": {"c": {"value": "v"}}}, {"controls": {"c": {"value_model": "v"}}}, "value"),
        (
            {"controls": {"c": {"fidelity": "published"}}},
            {"controls": {"c": {"variant": "released_code"}}},
            "fidelity",
        ),
    ],
)
def test_old_key_of_the_catalogue_is_renamed(old: dict[str, Any], new: dict[str, Any], key: str) -> None:
    raw = copy.deepcopy(old)
    renamed = renamed_catalogue(raw)
    assert renamed.mapping == new
    assert len(renamed.warnings) == 1 and f"`{key}` is an old key" in renamed.warnings[0]
    assert raw == old, "the argument must not change"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"grids": [{"bends": ["b"]}]}, {"grids": [{"adapters": ["b"]}]}),
        ({"claims": [{"where": {"bend": "b"}}]}, {"claims": [{"where": {"adapter": "b"}}]}),
        ({"claims": [{"where": {"compares": "bend"}}]}, {"claims": [{"where": {"compares": "adapter"}}]}),
        (
            {"claims": [{"at_least": {"bend": "b", "take": "estimate"}}]},
            {"claims": [{"at_least": {"adapter": "b", "take": "estimate"}}]},
        ),
        ({"claims": [{"at_most": {"bend": "b"}}]}, {"claims": [{"at_most": {"adapter": "b"}}]}),
    ],
)
def test_old_key_of_a_study_is_renamed(old: dict[str, Any], new: dict[str, Any]) -> None:
    renamed = renamed_study(old, "mine")
    assert renamed.mapping == new
    assert len(renamed.warnings) == 1 and "bend" in renamed.warnings[0] and "mine." in renamed.warnings[0]


def test_equal_names_that_are_no_old_keys_are_kept() -> None:
    raw = {
        "datasets": {"retain": {"source": {"local": "pairs"}}},
        "controls": {"value": {"method": "value", "choice": {"objective": "published"}}},
        "study": "values",
    }
    assert renamed_catalogue(raw) == (raw, [])


def test_values_that_are_no_mappings_are_kept() -> None:
    raw = {"adapters": ["b"], "models": {"m": None}, "controls": {"c": {"fidelity": 3, "parts": [1]}}}
    assert renamed_catalogue(raw).mapping == {**raw, "controls": {"c": {"variant": 3, "parts": [1]}}}
    assert renamed_study({"grids": 3, "claims": ["text"]}, "mine").mapping == {"grids": 3, "claims": ["text"]}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            {"adapters": {"b": {"samples": "d", "examples": "e"}}},
            "adapters.b: `samples` is the old name of `examples`; give only `examples`",
        ),
        ({"bends": {"b": {}}, "adapters": {"b": {}}}, "bends.b: adapters.b exists too; give only adapters.b"),
        (
            {"adapters": {"b": {"parts": [{"bend": "c", "adapter": "d"}]}}},
            "adapters.b.parts.0: `bend` is the old name of `adapter`",
        ),
    ],
)
def test_old_and_new_key_together_are_refused(raw: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        renamed_catalogue(raw)


def test_old_and_new_key_of_a_grid_together_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"mine\.grids\.0: `bends` is the old name of `adapters`"):
        renamed_study({"grids": [{"bends": [], "adapters": []}]}, "mine")


def test_blocks_of_an_old_and_a_new_section_are_merged() -> None:
    """Snakemake merges a user's file with the repository's file; each may use another name of the section."""
    raw = {"adapters": {"ours": {"lr": 1}}, "bends": {"mine": {"lr": 2}}}
    assert renamed_catalogue(raw).mapping == {"adapters": {"ours": {"lr": 1}, "mine": {"lr": 2}}}
