"""Figure of training curves."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from rebend.io.files import write_parquet
from rebend.report.figures.training import adapter_panels, draw_training


def test_panels_show_the_terms_of_the_method(tmp_path: Path) -> None:
    terms = {"change": [1.0, 0.5], "retain": [0.0, 0.1], "pair_norm": [0.0, 0.0]}
    table = pd.DataFrame({"step": [1, 2], **terms, "total": [1.0, 0.6], "grad_norm": [1.0, 1.0], "lr": [0.1, 0.1]})
    assert [list(curves) for _, curves in adapter_panels(table)] == [["change"], ["retain"], ["total"]]
    single = table.drop(columns="retain")
    assert [list(curves) for _, curves in adapter_panels(single)] == [["change"], ["grad_norm"], ["total"]]
    write_parquet(tmp_path / "metrics.parquet", pa.Table.from_pandas(table, preserve_index=False))
    figure = draw_training([{"model": "tiny", "adapter": "rmu", "metrics": str(tmp_path / "metrics.parquet")}], [])
    assert figure is not None
    assert [axes.get_legend().get_texts()[0].get_text() for axes in figure.axes] == ["change", "retain", "weighted sum"]
