"""The list of figures, and the figures matrix and states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pytest
from matplotlib.figure import Figure

from rebend.report.figures.all import all_figures, draw_matrix, draw_states
from rebend.report.figures.style import write_figures
from tests.helpers.study_factory import prompts_cell, prompts_data
from tests.helpers.study_tables import CAPTIONS, make_tables

NAMES = ["matrix", "asr", "over_refusal", "outcomes", "tradeoff", "frontier", "states", "training"]


def texts(figure: Figure) -> list[str]:
    return [item.get_text() for axes in figure.axes for item in axes.texts]


def test_figures_are_written_with_equal_bytes_each_time(
    settings: dict[str, Any], tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        write_figures(tmp_path / name, all_figures(settings, tables))
    written = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert written == sorted(f"{name}.{end}" for name in NAMES for end in ("png", "svg"))
    for name in written:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert (tmp_path / "one" / "asr.svg").read_text().startswith("<?xml")


def test_figures_without_data_are_left_out(settings: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
    bare = {**settings, "strengths": [], "states": [], "adapters": [], "value_models": []}
    assert list(all_figures(bare, tables)) == ["matrix", "asr", "over_refusal", "outcomes", "frontier"]
    nothing = {name: table.iloc[:0] for name, table in tables.items()}
    assert all_figures(bare, nothing) == {}


@pytest.mark.parametrize("name", NAMES)
def test_figures_have_captions(name: str) -> None:
    template = jinja2.Template(CAPTIONS.read_text())
    assert len(template.render(snakemake={"wildcards": {"figure": name}}).strip()) > 80


def test_matrix_shows_the_numbers_of_the_table(tables: dict[str, pd.DataFrame]) -> None:
    figure = draw_matrix(tables["matrix"])
    assert figure is not None
    shown = texts(figure)
    assert shown.count("87.2") == 3 and shown.count("5.1") == 3
    assert shown.count("[78.0, 92.9]") == 3
    assert {"1.900", "2.100", "2.900"} <= set(shown)


def test_matrix_marks_missing_and_unscored_cells(tables: dict[str, pd.DataFrame]) -> None:
    matrix = tables["matrix"]
    chosen = (matrix["adapter"] == "repbend") & (matrix["control"] == "random") & (matrix["metric"] == "asr")
    figure = draw_matrix(matrix[~chosen])
    assert figure is not None and "–" in texts(figure) and "not scored" not in texts(figure)
    unknown = matrix.copy()
    unknown.loc[chosen, ["estimate", "ci_low", "ci_high", "n", "not_scored"]] = [None, None, None, 0, 80]
    figure = draw_matrix(unknown)
    assert figure is not None and "not scored" in texts(figure)


def test_matrix_has_rows_of_the_models_own_adapters_only(tables: dict[str, pd.DataFrame]) -> None:
    other = tables["matrix"].assign(model="big", adapter=tables["matrix"]["adapter"].replace("repbend", "rmu"))
    figure = draw_matrix(pd.concat([tables["matrix"], other]))
    assert figure is not None and "–" not in texts(figure)


def test_matrix_of_a_reward_alone_has_one_panel(tmp_path: Path) -> None:
    cell = prompts_cell(tmp_path, prompts_data(tmp_path), "tiny", "none", "none", 0.0)
    figure = draw_matrix(make_tables([cell])["matrix"])
    assert figure is not None and len(figure.axes) == 1


def test_states_of_many_adapters_are_drawn_in_two_columns(settings: dict[str, Any]) -> None:
    entries = [{**settings["states"][0], "adapter": f"adapter_{i}"} for i in range(9)]
    figure = draw_states(entries)
    assert figure is not None and sum(axes.axison for axes in figure.axes) == 2 * 9
    assert figure.get_size_inches()[1] < 15
