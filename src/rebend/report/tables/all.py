"""The list of tables, and their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rebend.errors import DataError
from rebend.io.files import whole_directory
from rebend.report.measurements import measurements, named_controls
from rebend.report.published import RecontrolPaper, RepbendPaper
from rebend.report.reward_warning import reward_warning, warning_of, with_warning
from rebend.report.tables import (
    claims,
    frontier,
    gains,
    judge_agreement,
    matrix,
    paired_tests,
    recontrol,
    repbend,
    repbend_asr,
    repbend_capability,
    repbend_categories,
    repbend_summary,
    win_rates,
)
from rebend.report.tables.table import Inputs, Table

TABLES: list[Table] = [  # in the order of computation: a table comes after the tables that it is computed from
    matrix.TABLE,
    repbend_asr.TABLE,
    repbend_capability.TABLE,
    repbend_summary.TABLE,
    repbend.TABLE,
    repbend_categories.TABLE,
    paired_tests.TABLE,
    judge_agreement.TABLE,
    judge_agreement.DISAGREEMENTS,
    recontrol.TABLE,
    win_rates.TABLE,
    frontier.TABLE,
    gains.TABLE,
    claims.TABLE,
]
_PRINTED_NOTE = (
    "Numbers marked printed or paper are from the paper, for whole benchmarks without control. Some of the paper's "
    "averages disagree with its own cells (resources/published/README.md); the average recomputed from the cells "
    "follows such an average."
)
OTHER_SETTINGS = "*: settings other than the paper's, whose numbers stand beside them; the findings list them."
SEVERAL_TRIES = (
    "Best of n tries: the attack succeeds on a prompt if one of n tries does, which is more than with one try; do not "
    "compare these rates, and averages with them, with those of single tries."
)
ONE_SEED = "One training seed: intervals are over prompts, and say nothing about a training with another seed."
SINGLE_TRAININGS = "One training each: the test says nothing about trainings with other seeds."
SEVERAL_SEEDS = (
    "Rows with a number of seeds are means over as many trainings, with intervals over seeds and prompts together; the "
    "other rows are of one training."
)
_TEXT_COLUMNS = ("group", "dataset", "attack", "judge", "form", "seed")  # an empty cell is "" here, not a missing value


def all_tables(settings: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Return the tables of `TABLES` by name.

    `settings` (see `rebend.pipeline.graph.plan.Plan.summary`) has the study's `cells`, `chats`, `capabilities`,
    `claims`, `rewards` and `paper`, and `published`, the folder of the printed numbers.
    """
    cells, folder, paper = named_controls(settings["cells"]), settings["published"], settings["paper"]
    inputs = Inputs(
        cells,
        measurements([*cells, *settings["chats"]]),
        settings["capabilities"],
        settings["claims"],
        RecontrolPaper(folder) if paper == "recontrol" else None,
        RepbendPaper(folder) if paper == "repbend" else None,
    )
    for table in TABLES:
        inputs.tables[table.name] = table.compute(inputs)
    with_warning(inputs.tables, reward_warning(settings.get("rewards", ())))
    return inputs.tables


def shown(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return the table `name` as text, ready to print."""
    return _by_name(name).shown(table)


def note(name: str, table: pd.DataFrame) -> str:
    """Return the note under the table `name`."""
    notes = [_by_name(name).note]
    notes += [_PRINTED_NOTE] if any(str(column).startswith("printed_") for column in table.columns) else []
    has_judges = name in ("recontrol", "win_rates") and len(table) > 0
    judges = sorted({judge for judge in table["judge"] if judge}) if has_judges else []
    notes += [f"Judge of the win rate: {', '.join(judges)}."] if judges else []
    marked = any(table[name].astype(str).str.endswith("*").any() for name in ("adapter", "control") if name in table)
    notes += [OTHER_SETTINGS] if marked else []
    return " ".join([*notes, *_tries_note(table), *_seeds_note(table), *warning_of(table)])


def _tries_note(table: pd.DataFrame) -> list[str]:
    """Return a sentence on success over several tries, if the table has any beside single ones."""
    texts = [table[name].astype(str) for name in ("attack", "metric") if name in table]
    several = any(text.str.contains(" tries)", regex=False).any() for text in texts)
    return [SEVERAL_TRIES] if several or ("tries" in table and (table["tries"] > 1).any()) else []


def _seeds_note(table: pd.DataFrame) -> list[str]:
    """Return a sentence on the training seeds of a table whose rows are of trained adapters or controls."""
    counts = [table[name].max() for name in map(str, table) if name == "seeds" or name.endswith("_seeds")]
    trained = any((table[name] != "none").any() for name in ("adapter", "control") if name in table)
    if not counts or not trained:
        return []
    if max(counts) > 1:
        return [SEVERAL_SEEDS]
    return [SINGLE_TRAININGS if "p_value" in table else ONE_SEED]


def _by_name(name: str) -> Table:
    return next(table for table in TABLES if table.name == name)


def write_tables(
    folder: str | Path, tables: Mapping[str, pd.DataFrame], others: Mapping[str, str] | None = None
) -> None:
    """Write each table as .csv (rates between 0 and 1, unknown values empty), .md and .tex (rates in percent).

    `others`: name → text of other files in the folder.
    """
    with whole_directory(folder) as temporary:
        for name, table in tables.items():
            _plain(table).to_csv(temporary / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
            text = shown(name, table)
            body = text.to_markdown(index=False) if len(text) else "Nothing was measured."
            (temporary / f"{name}.md").write_text(f"{body}\n\n{note(name, table)}\n", encoding="utf-8")
            (temporary / f"{name}.tex").write_text(_latex(name, table, text), encoding="utf-8")
        for file, content in (others or {}).items():
            (temporary / file).write_text(content, encoding="utf-8")


def read_tables(folder: str | Path) -> dict[str, pd.DataFrame]:
    """Read the tables that `write_tables` wrote; raise `DataError` if one is missing or not readable."""
    tables = {}
    for name in (table.name for table in TABLES):
        try:
            table = pd.read_csv(Path(folder) / f"{name}.csv", keep_default_na=False, na_values=[""])
        except (OSError, ValueError) as error:
            raise DataError(f"{folder}/{name}.csv: not a readable table ({error})") from error
        text_columns = [column for column in _TEXT_COLUMNS if column in table]
        tables[name] = table.assign(**{column: table[column].astype(object).fillna("") for column in text_columns})
    return tables


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with truth values as "true" and "false", which CSV readers of most languages know."""
    truths = [name for name in map(str, table) if name in ("met", "on_frontier") or name.endswith("_wrong")]
    return table.assign(**{name: table[name].map({True: "true", False: "false"}) for name in truths})


def _latex(name: str, table: pd.DataFrame, text: pd.DataFrame) -> str:
    """Return a `tabular` for the package booktabs, with the note as a comment above it."""
    escaped = text.rename(columns=_escaped).map(_escaped)
    body = escaped.to_latex(index=False, escape=False) if len(text) else ""
    return f"% {name}: {note(name, table)}\n% needs \\usepackage{{booktabs}}\n{body}"


def _escaped(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("≥", r"$\geq$").replace("≤", r"$\leq$")
