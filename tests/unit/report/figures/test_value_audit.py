"""Figure of the audit of value models."""

from __future__ import annotations

from pathlib import Path

import jinja2
import numpy as np
import pytest

from rebend.recontrol.value_model.audit import THIRDS, Audit, calibration, write_audit
from rebend.report.figures.style import write_figures
from rebend.report.figures.value_audit import draw_value_audit
from tests.helpers.study_tables import CAPTIONS


def entry(folder: Path, *, useful: bool, known: bool = True) -> dict[str, str]:
    folder.mkdir()
    rank = 0.5 if known else None
    curve = [
        {"place": place, "rank": rank, "ci_low": rank, "ci_high": rank, "residual": 0.1, "value": 1.0}
        for place in np.linspace(0, 1, 5).tolist()
    ]
    facts = {
        "useful": useful,
        "rank": dict.fromkeys(THIRDS),
        "calibration": calibration(np.arange(20.0), np.arange(20.0)),
        "residual": {"reward_deviation": 1.0},
        "variation": {"along_a_response": 0.2},
    }
    write_audit(folder, Audit(useful, "because", facts, curve))
    return {"model": "tiny", "value_model": "net", "metrics": str(folder / "metrics.parquet")}


def test_each_audit_has_a_row_and_titles_mark_value_models_that_are_not_useful(tmp_path):
    entries = [entry(tmp_path / "a", useful=True), entry(tmp_path / "b", useful=False, known=False)]
    figure = draw_value_audit(entries)
    titles = [axes.get_title("left") or axes.get_title() for axes in figure.axes]
    assert titles[0] == "tiny, value model net"
    assert titles[3] == "tiny, value model net: not useful"
    write_figures(tmp_path / "one", {"value_audit": figure})
    write_figures(tmp_path / "two", {"value_audit": draw_value_audit(entries)})
    assert (tmp_path / "one/value_audit.png").read_bytes() == (tmp_path / "two/value_audit.png").read_bytes()


def test_no_figure_is_drawn_without_audits(tmp_path):
    assert draw_value_audit([]) is None
    assert draw_value_audit([{"model": "m", "value_model": "v", "metrics": str(tmp_path / "metrics.parquet")}]) is None


@pytest.mark.parametrize("name", ["value_audit"])
def test_figure_has_a_caption(name):
    template = jinja2.Template(CAPTIONS.read_text())
    assert "rank correlation" in template.render(snakemake={"wildcards": {"figure": name}})
