"""One table of the report, and the inputs of all tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from rebend.report.measurements import Cell, prompting_controls
from rebend.report.metrics import SAFETY
from rebend.report.published import RecontrolPaper, RepbendPaper


@dataclass(frozen=True)
class Inputs:
    """Cells and measurements of a study, the papers with printed numbers, and the tables computed so far."""

    cells: Sequence[Cell]
    rows: pd.DataFrame  # `rebend.report.measurements.measurements` of the cells and of chats
    capabilities: Sequence[Mapping[str, Any]] = ()  # one per model, adapter and capability benchmark
    claims: Sequence[Mapping[str, Any]] = ()
    recontrol: RecontrolPaper | None = None
    repbend: RepbendPaper | None = None
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    @cached_property
    def prompting(self) -> list[str]:
        """Controls that put an instruction before the prompt."""
        return prompting_controls(self.cells)

    def methods(self) -> Iterator[tuple[tuple[str, str], Cell]]:
        """Yield (model, adapter) with each capability and cell of safety; an instruction counts as an adapter."""
        yield from (((entry["model"], entry["adapter"]), entry) for entry in self.capabilities)
        for cell in self.cells:
            if cell["role"] == SAFETY:
                prompted = cell["adapter"] == "none" and cell["control"] in self.prompting
                yield (cell["model"], cell["control"] if prompted else cell["adapter"]), cell

    @cached_property
    def by_method(self) -> dict[tuple[str, str], Cell]:
        """(model, adapter) → a cell, preferably without control; an instruction counts as an adapter."""
        chosen: dict[tuple[str, str], Cell] = {}
        for key, cell in self.methods():
            if key not in chosen or chosen[key]["method"] not in ("none", "prompting"):
                chosen[key] = cell
        return chosen

    def printed_names(self, model: str, adapter: str) -> tuple[str | None, str | None]:
        """Return the printed names of a model and of its method; None without a printed name or without a paper."""
        cell = self.by_method.get((model, adapter))
        if self.repbend is None or cell is None:
            return None, None
        return self.repbend.model(cell), self.repbend.method(cell)

    def method_name(self, model: str, adapter: str) -> str:
        """Return the printed name of an adapter's method, followed by " (released)" for released weights.

        An adapter without a printed name keeps its label.
        """
        printed_model, method = self.printed_names(model, adapter)
        if printed_model is None or method is None:
            return adapter
        released = self.by_method[model, adapter]["adapter_method"] == "released"
        name = f"{method} (released)" if released and not method.endswith("(released)") else method
        return f"{name}*" if adapter.endswith("*") else name


@dataclass(frozen=True)
class Table:
    """A table: its name and texts, the function that computes it, and the function that makes it readable."""

    name: str
    heading: str  # on the page; "" keeps the table off the page
    note: str  # below the table
    compute: Callable[[Inputs], pd.DataFrame]
    text: Callable[[pd.DataFrame], pd.DataFrame]

    def shown(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the table as text, ready to print."""
        return self.text(table) if len(table) else pd.DataFrame()
