"""The report: one page, nothing from outside, no responses, sentences that follow the numbers."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rebend.errors import DataError
from rebend.io.files import read_json, write_json
from rebend.report.figures.all import all_figures
from rebend.report.figures.style import write_figures
from rebend.report.html.findings import findings
from rebend.report.html.page import made_with, make_report
from rebend.report.tables.all import all_tables, read_tables, write_tables
from tests.helpers.study_factory import SECRET, study
from tests.unit.report.test_figures import CAPTIONS

REDUCED = {"compares": "adapter", "control": "none", "group": "unseen item", "attack": "direct"}
CLAIMS = [
    {"text": "Bending lowers <ASR>", "table": "gains", "where": REDUCED, "column": "estimate", "at_least": 0.9},
    {"text": "Bending removes all", "table": "gains", "where": REDUCED, "column": "estimate", "at_least": 1.0},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, pd.DataFrame], Path, str]:
    root = tmp_path_factory.mktemp("study")
    settings = study(root, claims=CLAIMS)
    write_tables(root / "tables", all_tables(settings))
    tables = read_tables(root / "tables")
    write_figures(root / "figures", all_figures(settings, tables))
    return settings, tables, root, make_report(settings, tables, root / "figures", CAPTIONS.read_text())


class Page(HTMLParser):
    """Collects what a browser would fetch, and whether tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.anchors: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.fetched += [str(values[key]) for key in ("src", "srcset", "data") if key in values]
        if tag == "link":
            self.fetched.append(str(values.get("href")))
        if tag == "a":
            self.anchors.append(str(values.get("href")))
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_no_other_file(made: Any) -> None:
    page = Page(made[3])
    assert page.open == []
    assert len(page.fetched) == 8 and all(address.startswith("data:image/svg+xml;base64,") for address in page.fetched)
    assert "@import" not in made[3] and "url(" not in made[3] and "<script" not in made[3]
    assert {anchor.removeprefix("#") for anchor in page.anchors} <= set(page.ids)


def test_no_response_is_shown(made: Any) -> None:
    settings, _, root, page = made
    for cell in settings["cells"]:
        assert SECRET in str(Path(cell["responses"]).read_bytes())  # it is there to be shown
    assert SECRET not in page
    for path in (root / "tables").iterdir():
        assert SECRET not in path.read_text()


def test_claims_are_shown_met_and_not_met(made: Any) -> None:
    page = made[3]
    assert '<span class="badge met">met</span>' in page and '<span class="badge missed">not met</span>' in page
    assert "1 of 2 claims are met. Not met: Bending removes all." in page
    assert "Bending lowers &lt;ASR&gt;" in page and "<ASR>" not in page


def test_every_table_stands_with_intervals_and_counts(made: Any) -> None:
    page = made[3]
    named = {name for name, table in made[1].items() if len(table)} - {"claims", "safety_disagreements"}
    assert {"repbend_asr", "repbend_summary", "repbend_categories", "repbend_pairs", "safety_agreement"} <= named
    for name in named:
        assert f'id="table-{name}"' in page
    assert "87.2 [78.0, 92.9] (n 78, 2 not scored)" in page
    assert "world_rubric (proxy)" in page


def test_every_cell_can_be_followed_to_its_files(made: Any) -> None:
    settings, _, _, page = made
    for cell in settings["cells"]:
        for path in (cell["record"], cell["data"], cell["responses"], *cell["scores"].values()):
            assert path in page
    assert "abc1234" in page and "d1g3st" in page
    assert "decode_seconds 3.0, tokens 1500" in page


def test_it_reads_in_the_dark_and_on_a_telephone(made: Any) -> None:
    assert "prefers-color-scheme: dark" in made[3]
    assert 'name="viewport"' in made[3]
    assert made[3].count("<table>") == made[3].count('<div class="scroll"><table>') > 4  # wide tables scroll alone


def test_the_same_results_give_the_same_page(made: Any) -> None:
    settings, tables, root, page = made
    assert make_report(settings, tables, root / "figures", CAPTIONS.read_text()) == page


def test_a_figure_without_caption_is_an_error(made: Any) -> None:
    settings, tables, root, _ = made
    with pytest.raises(DataError, match="none for the figure 'matrix'"):
        make_report(settings, tables, root / "figures", "{% if false %}x{% endif %}")


def test_a_mixed_study_names_all_of_its_commits() -> None:
    found = dict(made_with([{"commit": "a", "versions": {"torch": "1"}}, {"commit": "b", "versions": {"torch": "1"}}]))
    assert found["commit"] == "a, b" and found["torch"] == "1"


def test_a_missing_record_is_named(made: Any, tmp_path: Path) -> None:
    settings, tables, root, _ = made
    cells = [{**settings["cells"][0], "record": str(tmp_path / "gone.json")}]
    with pytest.raises(DataError, match=r"gone\.json"):
        make_report({**settings, "cells": cells}, tables, root / "figures", CAPTIONS.read_text())


def test_sentences_say_what_the_numbers_say(made: Any) -> None:
    found = findings(made[1])
    text = " ".join(found)
    assert "tiny without an adapter: attack success rate 87.2 [78.0, 92.9] % asked directly" in text
    assert "adapter repbend: attack success rate 5.1 % asked directly (a relative reduction of 94.1" in text
    assert "mean reward against control none: value raised it by 1.000 [1.000, 1.000]" in text
    assert "mean reward against control random: value raised it by 0.800" in text
    assert "12.8 [7.1, 22.0] % of harmful prompts are refused and 82.1" in text
    assert "The judges truth and matcher agree on what is harmful in 100.0 % of" in text
    assert "Win rates come from a proxy" in text
    assert "leave out rows that were not scored" in text
    assert (
        len(found) == 1 + 2 + 1 + 4 + 2
    )  # claims, base and adapter without control, judges, 2 adapters x 2 baselines, caveats


def test_sentences_turn_with_the_numbers(made: Any) -> None:
    tables = made[1]
    gains = tables["gains"].copy()
    sign = gains["metric"] == "reward_gain"
    gains.loc[sign, ["estimate", "ci_low", "ci_high"]] = [-1.0, -1.5, -0.5]
    assert "value lowered it by -1.000" in " ".join(findings({**tables, "gains": gains}))
    gains.loc[sign, ["estimate", "ci_low", "ci_high"]] = [0.1, -0.5, 0.7]
    text = " ".join(findings({**tables, "gains": gains}))
    assert "value changed it by" in text and "(the interval includes no change)" in text
    gains.loc[gains["compares"] == "adapter", ["estimate", "ci_low", "ci_high"]] = None
    assert "there was nothing to reduce" in " ".join(findings({**tables, "gains": gains}))


def test_nothing_measured_is_said_so(made: Any, tmp_path: Path) -> None:
    settings, tables, _, _ = made
    nothing = {name: table.iloc[:0] for name, table in tables.items()}
    page = make_report({**settings, "cells": []}, nothing, tmp_path, CAPTIONS.read_text())
    assert "Nothing was measured." in page and "<img" not in page


def test_settings_are_written_once_per_control(made: Any, tmp_path: Path) -> None:
    settings, tables, root, page = made
    assert page.count("<summary>tiny / none, tiny / none / direct, tiny / none / prefilling, tiny / random, ") == 1
    cell = dict(settings["cells"][0])
    record = read_json(cell["record"])
    write_json(tmp_path / "record.json", {**record, "settings": {"control": {"method": "other"}}})
    cells = [{**cell, "record": str(tmp_path / "record.json")}, *settings["cells"][1:]]
    page = make_report({**settings, "cells": cells}, tables, root / "figures", CAPTIONS.read_text())
    assert page.count("&#34;method&#34;: &#34;other&#34;") == 1


def with_adapters(
    tables: dict[str, pd.DataFrame], *adapters: tuple[str, float | None, float]
) -> dict[str, pd.DataFrame]:
    """The tables with these adapters (name, ASR under every attack, benign prompts answered) in place of their own."""
    base = tables["matrix"][tables["matrix"]["adapter"] == "none"]
    gains = tables["gains"]
    adapted = gains[(gains["compares"] == "adapter") & (gains["control"] == "none")]
    matrix, lines = [base], []
    for adapter, asr, answered in adapters:
        own = base.assign(adapter=adapter)
        own.loc[own["metric"].str.startswith("asr"), "estimate"] = asr
        own.loc[own["metric"] == "benign_answer_rate", "estimate"] = answered
        matrix.append(own)
        lines.append(adapted.assign(adapter=adapter))
    return {**tables, "matrix": pd.concat(matrix), "gains": pd.concat(lines)}


def test_of_many_adapters_there_is_a_sentence_per_attack_in_the_order_of_their_rates(made: Any) -> None:
    tables = with_adapters(made[1], ("a", 0.2, 0.9), ("b", 0.1, 0.5), ("c", None, 0.9), ("d", 0.2, 0.8))
    direct = next(text for text in findings(tables) if "attack success rate asked directly" in text)
    without, first, second, last = direct.split("; ")
    assert without.startswith("tiny, attack success rate asked directly: 87.2 [78.0, 92.9] % without an adapter")
    assert first.startswith("b 10.0") and second.startswith("a, d 20.0") and last == "c an unknown share."
    benign = next(text for text in findings(tables) if "harmless prompts answered:" in text)
    assert benign.index("a, c 90.0") < benign.index("d 80.0") < benign.index("b 50.0")
    assert not [text for text in findings(tables) if text.startswith("tiny, adapter a: ")]
    harmful_only = tables["matrix"][tables["matrix"]["metric"] != "benign_answer_rate"]
    assert "harmless prompts answered" not in " ".join(findings({**tables, "matrix": harmful_only}))


def test_sentences_on_several_adapters_rank_those_that_keep_benign_answers(made: Any) -> None:
    pairs = pd.DataFrame(
        [
            {"model": "tiny", "adapter": "repbend", "against": against, "outcome": "harmful", "dataset": "all",
             "attack": attack, "only_adapter": 9 if against == "npo" else 1, "only_against": 3, "p_holm": p}
            for against, attack, p in (
                ("rmu", "direct", 0.01), ("rmu", "prefilling", 0.2), ("npo", "direct", 0.02), ("npo", "prefilling", 0.0)
            )
        ]
    )  # fmt: skip
    adapted = with_adapters(made[1], ("repbend", 0.2, 0.9), ("rmu", 0.1, 0.9), ("npo", 0.0, 0.5))
    tables = {**adapted, "repbend_pairs": pairs}
    text = " ".join(findings(tables))
    assert "2 of 3 adapters answer at least 95 % as many harmless prompts as the base" in text
    assert "their mean attack success rates over the attacks: rmu 10.0 %, repbend 20.0 %." in text
    assert (
        "adapter repbend on the same prompts as others: gives in less often than rmu (asked directly); "
        "gives in more often than npo; no difference is shown from rmu (under prefilling) "
        "(McNemar's test, Holm-corrected p < 0.05)." in text
    )
