"""Load readers by name, and check data set blocks against their readers."""

from __future__ import annotations

from rebend.config.datasets import MADE_DATASETS, READERS
from rebend.data.readers.reader import Reader
from rebend.errors import likely_typo
from rebend.io.registry import load_code


def load_reader(name: str) -> Reader:
    """Return the reader `name`. Raises KeyError if the registry has none."""
    reader: Reader = load_code(READERS[name])
    return reader


def load_readers() -> dict[str, Reader]:
    """Return all readers by name."""
    return {name: load_reader(name) for name in READERS}


def reader_mistakes(
    reader: str, kind: str, world_part: str | None, has_reference: bool, variant: str = "corrected"
) -> list[str]:
    """Return one message per setting of a data set block that its reader does not support."""
    if reader not in READERS:
        known = [*READERS, *MADE_DATASETS]
        return [f"reader: there is no '{reader}'. Allowed: {', '.join(known)}.{likely_typo(reader, known)}"]
    chosen = load_reader(reader)
    mistakes = []
    if kind not in chosen.columns:
        suitable = ", ".join(name for name, other in load_readers().items() if kind in other.columns)
        mistakes.append(
            f"reader: '{reader}' gives {', '.join(chosen.kinds)}, not {kind}; readers that give it: {suitable}"
        )
    if (chosen.generate is not None) != (world_part is not None):
        mistakes.append("reader: 'world' goes with `source: {world: ...}`, and only with it")
    elif world_part is not None and chosen.parts[world_part] != kind:
        mistakes.append(f"kind: part '{world_part}' of the world is {chosen.parts[world_part]}, not {kind}")
    if has_reference and not chosen.reference:
        suitable = ", ".join(name for name, other in load_readers().items() if other.reference)
        mistakes.append(f"reference: reader '{reader}' has no second file; readers that have one: {suitable}")
    if variant == "released_code" and chosen.released_prompts is None:
        suitable = ", ".join(name for name, other in load_readers().items() if other.released_prompts)
        mistakes.append(f"variant: reader '{reader}' has no `released_code` form; readers that have one: {suitable}")
    return mistakes
