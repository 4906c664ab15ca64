"""The files of transcripts: text of a model breaks no Markdown, no CSV and no page."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rebend.errors import DataError
from rebend.report.html.page import make_report
from rebend.report.tables.all import read_tables, write_tables
from rebend.report.transcripts.page import NOTHING, explanation, files, markdown, read_transcripts
from rebend.report.transcripts.plain_text import MOST, beginning, ending, in_markdown, plain
from rebend.report.transcripts.rows import COLUMNS
from tests.helpers.study_tables import CAPTIONS, make_tables

WANTED = {"cells": [], "transcripts": {"prompts": 5, "harmless": []}}
NASTY = [
    "a | b || c\n| --- |\n# heading\n\n```\ncode ` `` |\n```",
    "<script>alert(1)</script></td></tr></table><!-- <b>",
    "[link](http://example.org) ![x](y) <a@example.org> www.example.org @someone #12 $x$ :tada: ~~no~~ **bold** _i_",
    "\x1b[31mred\x00\x07 \u202egnimoc \r\nnext\rlast\u2028line\x85end\ttab",
    "\\| \\` &lt;td&gt; &#124; {{ 7 * 7 }} {% raw %}",
    '"quoted", comma\n"new line"',
]


def table(*rows: dict[str, str]) -> pd.DataFrame:
    """Return a table of transcripts; columns that a row does not have are ""."""
    return pd.DataFrame([{**dict.fromkeys(COLUMNS, ""), **row} for row in rows], columns=COLUMNS)


def nasty_table() -> pd.DataFrame:
    answers = [
        {"adapter": adapter, "answer": plain(text), "verdict": "harmless", "judge": "rules"}
        for text in NASTY for adapter in ("none", text.strip())
    ]  # fmt: skip
    named = [
        {"dataset": "d|<x>", "row_id": f"r{i // 2}", "prompt": plain(NASTY[i // 2]), **answer}
        for i, answer in enumerate(answers)
    ]
    return table(*named)


class Cells(HTMLParser):
    """The text of each cell, and the tags, of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += "\n" if tag == "br" else ""

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("text", NASTY)
def test_a_markdown_cell_is_one_line_that_shows_the_text_as_it_is(text: str) -> None:
    cell = in_markdown(plain(text))
    assert not set("|\n\r`*_[]~$@\\{}") & set(cell)
    assert "www." not in cell and "://" not in cell and ":tada" not in cell
    seen = Cells(cell)
    assert set(seen.tags) <= {"br"}
    assert seen.text == "\n".join(" ".join(line.split()) for line in plain(text).split("\n"))


def test_words_with_underscores_stay_readable_and_emphasis_has_no_effect() -> None:
    assert in_markdown("micro_test: 1") == "micro_test: 1"
    assert in_markdown("__init__ a__b _x_y_") == ("&#95;&#95;init&#95;&#95; a&#95;&#95;b &#95;x_y&#95;")


def test_control_signs_are_replaced_and_line_breaks_kept() -> None:
    assert plain(NASTY[3]) == "\ufffd[31mred\ufffd\ufffd \ufffdgnimoc \nnext\nlast\nline\nend tab"
    assert plain("ü 漢 👩‍🚀 é") == "ü 漢 👩‍🚀 é"


def test_answers_keep_their_beginning_and_prompts_their_end() -> None:
    text = "".join(chr(ord("a") + i % 26) for i in range(MOST))
    assert beginning(text) == ending(text) == text
    assert beginning(f"{text}x") == f"{text} …" and ending(f"x{text}") == f"… {text}"


def test_every_line_of_a_markdown_table_has_the_same_columns() -> None:
    page = markdown(WANTED, nasty_table())
    rows = [line for line in page.split("\n") if line.startswith("|")]
    assert len(rows) == len(NASTY) * 5  # heading, rule, prompt and two answers
    assert {line.count("|") for line in rows} == {4}
    assert page.count("## ") == 1 and "## d&#124;&#60;x&#62;\n" in page


def test_columns_that_say_nothing_are_left_out() -> None:
    rows = [{"dataset": "d", "row_id": "r", "prompt": "p", "adapter": a, "answer": "x"} for a in ("none", "repbend")]
    assert "| adapter | answer |\n| --- | --- |\n| **prompt** | p |\n| none | x |\n| repbend | x |" in markdown(
        WANTED, table(*rows)
    )
    full = [{**row, "seed": "0", "reward": "1.0", "control": c} for row, c in zip(rows, ("none", "value"), strict=True)]
    assert "| adapter | control | training seed | reward | answer |" in markdown(WANTED, table(*full))


def test_csv_gives_back_the_same_text(tmp_path: Path) -> None:
    made = nasty_table()
    write_tables(tmp_path / "tables", {}, files(WANTED, made))
    pd.testing.assert_frame_equal(read_transcripts(tmp_path / "tables"), made, check_dtype=False)
    assert (tmp_path / "tables" / "transcripts.md").read_text() == markdown(WANTED, made)


def test_the_rule_of_the_choice_and_what_is_left_out_are_stated() -> None:
    assert "Up to 5 prompts" in explanation(WANTED, table()) and "SHA-256" in explanation(WANTED, table())
    assert "training seed" not in explanation(WANTED, table())
    assert "Of several training seeds the first is shown." in explanation(WANTED, table({"seed": "0"}))
    cells = [{"role": "quality", "data": "mixed.parquet", "dataset": "mixed"}]
    assert "does not call them harmless (key harmless_prompts): mixed." in explanation(
        {**WANTED, "cells": cells}, table()
    )


def test_without_the_key_there_are_no_files_and_without_prompts_the_page_states_it(tmp_path: Path) -> None:
    assert files({"cells": []}, table()) == {}
    assert files({**WANTED, "transcripts": {"prompts": 0, "harmless": []}}, table()) == {}
    assert NOTHING in files(WANTED, table())["transcripts.md"]
    write_tables(tmp_path / "tables", {}, files(WANTED, table()))
    assert read_transcripts(tmp_path / "tables").empty
    with pytest.raises(DataError, match=r"transcripts\.csv: not a readable table"):
        read_transcripts(tmp_path)


def report_of(folder: Path, transcripts: pd.DataFrame | None) -> str:
    write_tables(folder / "tables", make_tables([]))
    study: dict[str, Any] = {"title": "t", "study": "s", "paper": None, **WANTED}
    return make_report(study, read_tables(folder / "tables"), folder, CAPTIONS.read_text(), transcripts)


def test_the_report_ends_with_the_transcripts_and_no_text_becomes_a_tag(tmp_path: Path) -> None:
    page = report_of(tmp_path, nasty_table())
    plain_page = report_of(tmp_path, None)
    assert '<a href="#transcripts">' in page and "transcripts" not in plain_page
    section = page[page.index('<section id="transcripts">') :]
    assert page.index('id="provenance"') < page.index('<section id="transcripts">')
    allowed = {"section", "h2", "span", "code", "p", "details", "summary", "div", "table", "thead", "tbody", "tr"}
    assert set(Cells(section).tags) == allowed | {"th", "td"}
    for text in NASTY:
        assert plain(text) in Cells(section).text
    assert NOTHING in report_of(tmp_path, table())
