"""A self-contained page about a study: findings, figures, tables, settings, and the source files of the numbers.

The page contains no responses, because some of them answer harmful prompts; only a study that asks for transcripts has
some answers to harmless prompts at its end.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from rebend.errors import DataError
from rebend.io.files import read_json
from rebend.report.html.findings import findings
from rebend.report.measurements import Cell, seed_of
from rebend.report.tables.all import TABLES, note, shown
from rebend.report.tables.table import Table
from rebend.report.transcripts.page import NOTHING as NO_PROMPT
from rebend.report.transcripts.page import examples, explanation

FIGURES = (
    "matrix",
    "asr",
    "over_refusal",
    "outcomes",
    "tradeoff",
    "frontier",
    "states",
    "training",
    "value_audit",
)  # in the order of the page


def make_report(
    settings: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    figures: str | Path,
    captions: str,
    transcripts: pd.DataFrame | None = None,
) -> str:
    """Return the page as HTML.

    `figures` is the folder of the SVG files. `captions` is the template of their captions; it uses
    `snakemake.wildcards.figure`, because Snakemake's report renders it too. `transcripts` is the table of
    `rebend.report.transcripts.rows`, or None for a study that asks for none.
    """
    records = {cell["record"]: read_json(cell["record"]) for cell in settings["cells"]}
    page = _environment().get_template("page.html.jinja")
    return page.render(
        title=settings["title"],
        study=settings["study"],
        paper=settings["paper"],
        findings=[*findings(tables), *settings.get("deviations", ())],
        claims=shown("claims", tables["claims"]).to_dict("records"),
        figures=drawn(Path(figures), captions),
        tables=[_table(table, tables[table.name]) for table in TABLES if table.heading and len(tables[table.name])],
        transcripts=None if transcripts is None else _transcripts(settings, transcripts),
        provenance=[provenance(cell, records[cell["record"]]) for cell in settings["cells"]],
        settings=_settings(settings["cells"], records),
        made_with=made_with(list(records.values())),
    )


def drawn(folder: Path, captions: str) -> list[dict[str, str]]:
    """Return name, caption and data URL of each figure in `folder`, in the order of the page.

    Raises `DataError` if a figure has no caption.
    """
    template = jinja2.Template(captions)
    figures = []
    for name in FIGURES:
        path = folder / f"{name}.svg"
        if path.exists():
            caption = template.render(snakemake={"wildcards": {"figure": name}}).strip()
            if not caption:
                raise DataError(f"the file of captions has no caption for the figure '{name}'")
            data = base64.b64encode(path.read_bytes()).decode()
            figures.append({"name": name, "caption": caption, "address": f"data:image/svg+xml;base64,{data}"})
    return figures


def provenance(cell: Cell, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sources of the numbers of one cell: files, commit, decoding time and counts."""
    names = [cell[key] for key in ("model", "adapter", "control", "dataset", "attack") if cell[key]]
    names += [f"seed {seed_of(cell)}"] if seed_of(cell) else []
    scores = {stage: path for stage, path in cell["scores"].items() if stage != "safety"}  # they are in `judges`
    stages = {"data": cell["data"], "responses": cell["responses"], **scores}
    files = {stage.replace("_", " "): path for stage, path in stages.items()}
    files |= {f"verdicts of {judge}": path for judge, path in cell["judges"].items()}
    return {
        "cell": " / ".join(names),
        "record": cell["record"],
        "files": [{"name": name, "path": path} for name, path in files.items()],
        "commit": record.get("commit") or "unknown",
        "code": record.get("code", ""),
        "seconds": record.get("seconds"),
        "notes": ", ".join(f"{key} {value}" for key, value in sorted(record.get("notes", {}).items())),
    }


def made_with(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the distinct commits, machines and versions in all records; several of one kind mean a mixed study."""
    facts: dict[str, set[str]] = {}
    for record in records:
        facts.setdefault("commit", set()).add(str(record.get("commit") or "unknown"))
        for key in ("rebend", "python", "machine"):
            facts.setdefault(key, set()).add(str(record.get(key, "unknown")))
        for package, version in record.get("versions", {}).items():
            facts.setdefault(package, set()).add(str(version))
    return [(key, ", ".join(sorted(values))) for key, values in facts.items()]


def _settings(cells: Sequence[Cell], records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return each distinct decoding setting with its cells."""
    names_by_text: dict[str, dict[str, None]] = {}
    for cell in cells:
        text = json.dumps(records[cell["record"]]["settings"], indent=2, sort_keys=True, ensure_ascii=False)
        names_by_text.setdefault(text, {})[
            " / ".join(filter(None, (cell["model"], cell["control"], cell["attack"])))
        ] = None
    return [{"cells": ", ".join(names), "text": text} for text, names in names_by_text.items()]


def _table(table: Table, values: pd.DataFrame) -> dict[str, Any]:
    text = table.shown(values)
    return {
        "name": table.name,
        "heading": table.heading,
        "note": note(table.name, values),
        "columns": list(text.columns),
        "rows": text.to_numpy().tolist(),
    }


def _transcripts(settings: Mapping[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    shown = list(examples(table))
    return {"note": explanation(settings, table), "examples": shown, "nothing": "" if shown else NO_PROMPT}


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("rebend.report.html", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
