"""The page: self-contained, without responses, and equal for equal results."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rebend.errors import DataError
from rebend.io.files import read_json, write_json
from rebend.report.html.page import made_with, make_report
from tests.helpers.study_factory import SECRET
from tests.helpers.study_tables import CAPTIONS


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


def test_page_loads_no_other_file(report: Any) -> None:
    page = Page(report.page)
    assert page.open == []
    assert len(page.fetched) == 8 and all(address.startswith("data:image/svg+xml;base64,") for address in page.fetched)
    assert "@import" not in report.page and "url(" not in report.page and "<script" not in report.page
    assert {anchor.removeprefix("#") for anchor in page.anchors} <= set(page.ids)


def test_page_and_tables_contain_no_response(report: Any) -> None:
    settings, _, root, page = report
    for cell in settings["cells"]:
        assert SECRET in str(Path(cell["responses"]).read_bytes())  # the secret is in the responses
    assert SECRET not in page
    for path in (root / "tables").iterdir():
        assert SECRET not in path.read_text()


def test_claims_are_shown_met_and_not_met(report: Any) -> None:
    page = report.page
    assert '<span class="badge met">met</span>' in page and '<span class="badge missed">not met</span>' in page
    assert "1 of 2 claims are met. Not met: Bending removes all." in page
    assert "Bending lowers &lt;ASR&gt;" in page and "<ASR>" not in page


def test_page_contains_all_tables_with_intervals_and_counts(report: Any) -> None:
    page = report.page
    names = {name for name, table in report.tables.items() if len(table)} - {"claims", "safety_disagreements"}
    assert {"repbend_asr", "repbend_summary", "repbend_categories", "repbend_pairs", "safety_agreement"} <= names
    for name in names:
        assert f'id="table-{name}"' in page
    assert "87.2 [78.0, 92.9] (n 78, 2 not scored)" in page
    assert "world_rubric (proxy)" in page


def test_page_lists_the_files_of_each_cell(report: Any) -> None:
    settings, _, _, page = report
    for cell in settings["cells"]:
        for path in (cell["record"], cell["data"], cell["responses"], *cell["scores"].values()):
            assert path in page
    assert "abc1234" in page and "d1g3st" in page
    assert "decode_seconds 3.0, tokens 1500" in page


def test_page_supports_dark_mode_and_small_screens(report: Any) -> None:
    assert "prefers-color-scheme: dark" in report.page
    assert 'name="viewport"' in report.page
    assert (
        report.page.count("<table>") == report.page.count('<div class="scroll"><table>') > 4
    )  # wide tables scroll alone


def test_equal_results_give_equal_pages(report: Any) -> None:
    settings, tables, root, page = report
    assert make_report(settings, tables, root / "figures", CAPTIONS.read_text()) == page


def test_figure_without_caption_raises_data_error(report: Any) -> None:
    settings, tables, root, _ = report
    with pytest.raises(DataError, match="no caption for the figure 'matrix'"):
        make_report(settings, tables, root / "figures", "{% if false %}x{% endif %}")


def test_made_with_lists_all_commits_of_a_mixed_study() -> None:
    versions = dict(
        made_with([{"commit": "a", "versions": {"torch": "1"}}, {"commit": "b", "versions": {"torch": "1"}}])
    )
    assert versions["commit"] == "a, b" and versions["torch"] == "1"


def test_missing_record_raises_data_error_with_its_path(report: Any, tmp_path: Path) -> None:
    settings, tables, root, _ = report
    cells = [{**settings["cells"][0], "record": str(tmp_path / "gone.json")}]
    with pytest.raises(DataError, match=r"gone\.json"):
        make_report({**settings, "cells": cells}, tables, root / "figures", CAPTIONS.read_text())


def test_page_without_measurements_states_it(report: Any, tmp_path: Path) -> None:
    settings, tables, _, _ = report
    nothing = {name: table.iloc[:0] for name, table in tables.items()}
    page = make_report({**settings, "cells": []}, nothing, tmp_path, CAPTIONS.read_text())
    assert "Nothing was measured." in page and "<img" not in page


def test_equal_settings_are_listed_once(report: Any, tmp_path: Path) -> None:
    settings, tables, root, page = report
    assert page.count("<summary>tiny / none, tiny / none / direct, tiny / none / prefilling, tiny / random, ") == 1
    cell = dict(settings["cells"][0])
    record = read_json(cell["record"])
    write_json(tmp_path / "record.json", {**record, "settings": {"control": {"method": "other"}}})
    cells = [{**cell, "record": str(tmp_path / "record.json")}, *settings["cells"][1:]]
    page = make_report({**settings, "cells": cells}, tables, root / "figures", CAPTIONS.read_text())
    assert page.count("&#34;method&#34;: &#34;other&#34;") == 1
