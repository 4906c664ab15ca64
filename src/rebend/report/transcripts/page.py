"""Example transcripts as files and as sections of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from rebend.errors import DataError
from rebend.report.lines import records
from rebend.report.transcripts.plain_text import MOST, in_markdown
from rebend.report.transcripts.rows import COLUMNS, is_wanted, left_out

NAME = "transcripts"
NOTHING = "There is no harmless prompt to show."
SHORT = (
    f"Prompts are cut to their last {MOST} characters, answers to their first {MOST} (…). A replacement sign (\ufffd) "
    "stands for a control character."
)


class Example(NamedTuple):
    """One prompt, and a row per compared model, as text that is not escaped; the last column is the answer."""

    dataset: str
    prompt: str
    columns: list[str]
    rows: list[list[str]]


def explanation(settings: Mapping[str, Any], table: pd.DataFrame) -> str:
    """Return what is shown and how it was chosen."""
    count = settings["transcripts"]["prompts"]
    parts = [
        f"Up to {count} prompts of each data set: the first by the SHA-256 of their row ids, so nobody picked them, "
        "and they are the same for every model and seed.",
        "Harmful prompts and answers to them are never shown. Prompts of evaluation data sets are asked directly, "
        "without control; of several tries the first is shown.",
    ]
    parts += ["Of several training seeds the first is shown."] if (table["seed"] != "").any() else []
    if hidden := ", ".join(left_out(settings)):
        parts.append(f"Not shown, because the study does not call them harmless (key harmless_prompts): {hidden}.")
    return " ".join([*parts, SHORT, "A few examples measure nothing: the other tables have the rates."])


def examples(table: pd.DataFrame) -> Iterator[Example]:
    """Yield the prompts in the order of the table; columns that say nothing in their data set are left out."""
    for dataset, part in table.groupby("dataset", sort=False):
        columns = _columns(part)
        for _, rows in part.groupby("row_id", sort=False):
            lines = [[line[name] for name in columns] for line in records(rows)]
            yield Example(str(dataset), str(rows["prompt"].iloc[0]), list(columns.values()), lines)


def _columns(part: pd.DataFrame) -> dict[str, str]:
    """Return column → heading for the examples of one data set."""
    several = [name for name in ("model", "control") if part[name].nunique() > 1]
    given = [name for name in ("seed", "verdict", "reward") if (part[name] != "").any()]
    judges = ", ".join(name for name in part["judge"].unique() if name)
    headings = {"seed": "training seed", "verdict": f"verdict of {judges}"}
    shown = [name for name in COLUMNS if name in (*several, "adapter", *given, "answer")]
    return {name: headings.get(name, name) for name in shown}


def files(settings: Mapping[str, Any], table: pd.DataFrame) -> dict[str, str]:
    """Return name → text of the files transcripts.csv and transcripts.md; no files if the study asks for none."""
    if not is_wanted(settings):
        return {}
    return {f"{NAME}.csv": table.to_csv(index=False, lineterminator="\n"), f"{NAME}.md": markdown(settings, table)}


def markdown(settings: Mapping[str, Any], table: pd.DataFrame) -> str:
    """Return the page: a heading per data set, and a table per prompt."""
    parts, dataset, number = [in_markdown(explanation(settings, table))], None, 0
    for example in examples(table):
        if example.dataset != dataset:
            dataset, number = example.dataset, 0
            parts.append(f"## {in_markdown(dataset)}")
        number += 1
        parts.append(f"**Prompt {number}**")
        first = ["**prompt**", *[""] * (len(example.columns) - 2), in_markdown(example.prompt)]
        lines = [list(map(in_markdown, row)) for row in (example.columns, *example.rows)]
        parts.append("\n".join(map(_line, [lines[0], ["---"] * len(first), first, *lines[1:]])))
    return "\n\n".join([*parts, *([] if len(table) else [NOTHING])]) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def read_transcripts(folder: str | Path) -> pd.DataFrame:
    """Return the table in the file transcripts.csv of a folder of tables; raise `DataError` if it is not readable."""
    path = Path(folder) / f"{NAME}.csv"
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable table ({error})") from error
