"""Data sets: from a source in its own format to one table of the block's kind, with stable row ids."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from rebend.config.datasets import DatasetBlock, WorldPart
from rebend.data.readers.raw import Placed, Row, read_rows
from rebend.data.readers.reader import columns_sentence, missing_columns
from rebend.data.readers.registry import load_reader, reader_mistakes
from rebend.data.readers.rows import Source, UnselectedRowError, UnusableRowError, checked_dialogue, content_id
from rebend.errors import ConfigError, DataError, likely_typo
from rebend.io.schemas import KINDS

_MAY_BE_NULL = ("reference", "pair", "request")


class Prepared(NamedTuple):
    """A data set and what happened on the way to it."""

    table: pa.Table
    read: int  # rows of the source
    dropped: dict[str, int]  # rows of the source that could not be used or were not selected, by reason
    repeated: int  # usable rows whose whole content had been there before; they are kept


def prepare_dataset(
    block: DatasetBlock, source_path: Path | None = None, reference_path: Path | None = None
) -> Prepared:
    """Read the source of `block` into a table of the schema `KINDS[block.kind]`.

    `source_path` and `reference_path` are the files behind `block.source` and `block.reference` (none for
    the tiny world). A row id is a digest of the row's content, with "-2", "-3" ... for its repetitions, so
    that neither file order nor `block.rows` changes it. Kept rows stay in the order of the file.

    Raises `ConfigError` where the reader cannot give what is asked, `DataError` (with file and line) for a
    damaged source, one without usable rows, one with fewer than `block.rows`, or safety data of one class.
    """
    part = block.source.world
    if mistakes := reader_mistakes(block.reader, block.kind, part.part if part else None, block.reference is not None):
        raise ConfigError("; ".join(mistakes))
    dropped: Counter[str] = Counter()
    if part is not None:
        where, (read, rows) = f"part '{part.part}' of the world", _from_world(block, part)
    else:
        where, (read, rows) = str(source_path), _from_file(block, source_path, reference_path, dropped)
    if not rows:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.most_common()) or "it holds no rows"
        raise DataError(f"{where}: no row can be used as {block.kind} by reader '{block.reader}' ({reasons})")
    if block.kind == "safety" and len(labels := {row["label"] for row in rows}) == 1:
        raise DataError(f"{where}: all {len(rows)} usable answers are {labels.pop()}; safe and unsafe ones are needed")
    repeated = _identify(rows)
    kept = _drawn(rows, block, where) if block.rows or block.skip else rows
    table = pa.Table.from_pylist(kept, schema=KINDS[block.kind])
    return Prepared(table, read, dict(dropped.most_common()), repeated)


def _from_world(block: DatasetBlock, part: WorldPart) -> tuple[int, list[dict[str, Any]]]:
    generate = load_reader(block.reader).generate
    assert generate is not None  # `reader_mistakes` found no other reader for a part of the world
    rows = [_checked(block.kind, row) for row in generate(part.part, part.rows, part.seed)]
    return len(rows), rows


def _from_file(
    block: DatasetBlock, source: Path | None, reference: Path | None, dropped: Counter[str]
) -> tuple[int, list[dict[str, Any]]]:
    """Read, convert and check every row; count in `dropped` those that are left out."""
    if source is None or (block.reference is not None and reference is None):
        raise DataError(f"reader '{block.reader}' was given no file to read")
    reader = load_reader(block.reader)
    read = 0
    rows = []
    for placed in _joined(source, reference, block):
        read += 1
        try:
            _select(placed, block.only)
            rows += [_checked(block.kind, row) for row in reader.convert(block.kind, placed)]
        except UnusableRowError as reason:
            dropped[str(reason)] += 1
    return read, rows


def _select(placed: Placed, only: Mapping[str, str | list[str]]) -> None:
    """Leave a row out whose columns do not hold the words of `only`."""
    for column, words in only.items():
        if column not in placed.row:
            typo = likely_typo(column, placed.row)
            raise DataError(f"{placed.place}: `only` looks at column '{column}', which is missing.{typo}")
        if str(placed.row[column]) not in ([words] if isinstance(words, str) else words):
            raise UnselectedRowError(f"{column} is not what `only` asks for")


def _joined(source: Path, reference: Path | None, block: DatasetBlock) -> Iterator[Placed]:
    """Rows of `source`, each with the columns that `reference`, if there is one, has for it."""
    reader = load_reader(block.reader)
    rows = read_rows(source, mapping=reader.entries)
    if reference is None:
        return rows
    answers = _with_columns(read_rows(reference, mapping=reader.reference_entries), block)
    return _by_key(rows, answers, block) if reader.key else _by_line(rows, answers, source, reference)


def _with_columns(rows: Iterator[Placed], block: DatasetBlock) -> Iterator[Placed]:
    """Rows of the second file, cut down to the columns that the reader takes from it."""
    reader = load_reader(block.reader)
    for placed in rows:
        if gone := missing_columns(reader.second_columns, placed.row):
            raise DataError(f"{placed.place}: {columns_sentence(block.reader, block.kind, gone, placed.row)}")
        yield placed._replace(row={name: placed.row[name] for name in reader.second_columns})


def _by_line(rows: Iterator[Placed], answers: Iterator[Placed], source: Path, reference: Path) -> Iterator[Placed]:
    """Line n of the second file goes with line n of the first."""
    for placed in rows:
        answer = next(answers, None)
        if answer is None or answer.number != placed.number:
            found = "it has ended" if answer is None else f"its next row is {answer.place}"
            raise DataError(f"{reference}: line n must answer line n of {source}; for {placed.place} {found}")
        yield placed._replace(row={**placed.row, **answer.row})
    if (extra := next(answers, None)) is not None:
        raise DataError(f"{extra.place}: no line of {source} goes with it; line n must answer line n")


def _by_key(rows: Iterator[Placed], answers: Iterator[Placed], block: DatasetBlock) -> Iterator[Placed]:
    """The row of the second file with the same key; its columns are None where it has no such row."""
    reader = load_reader(block.reader)
    found: dict[str, Row] = {}
    for answer in answers:
        name = str(answer.row[reader.key])
        if name in found:
            raise DataError(f"{answer.place}: {reader.key} '{name}' comes twice")
        found[name] = answer.row
    nothing = dict.fromkeys(reader.reference)
    for placed in rows:
        if reader.key not in placed.row:
            raise DataError(f"{placed.place}: {columns_sentence(block.reader, block.kind, [reader.key], placed.row)}")
        yield placed._replace(row={**placed.row, **nothing, **found.get(str(placed.row[reader.key]), {})})


def _checked(kind: str, row: Source) -> dict[str, Any]:
    """Return `row` if it has exactly the fields of its kind, each of its type, and turns in their order.

    A wrong shape is a mistake in a reader, not in the data: `ValueError`.
    """
    schema = KINDS[kind]
    wanted = [name for name in schema.names if name != "row_id"]
    if sorted(row) != sorted(wanted):
        raise ValueError(f"a row of kind '{kind}' has {sorted(row)}; expected {sorted(wanted)}")
    for name in wanted:
        value, what = row[name], schema.field(name).type
        if value is None and name in _MAY_BE_NULL:
            continue
        if name != "messages" and not isinstance(value, bool if pa.types.is_boolean(what) else str):
            raise ValueError(f"field '{name}' of kind '{kind}' is {value!r}; expected {what}")
    if row.get("label") not in (None, "safe", "unsafe"):
        raise ValueError(f"label is {row['label']!r}; allowed: safe, unsafe")
    last = checked_dialogue(row["messages"])[-1]["role"]
    if (last == "assistant") != (kind == "chat"):
        raise ValueError(f"the messages of a row of kind '{kind}' end with the {last}'s turn")
    content_id(row)  # text that cannot be written is found here, where the row can still be left out
    return dict(row)


def _identify(rows: list[dict[str, Any]]) -> int:
    """Give every row its id, made from its content alone; return how many repeat an earlier row."""
    seen: Counter[str] = Counter()
    for row in rows:
        row_id = content_id(row)
        seen[row_id] += 1
        if seen[row_id] > 1:
            ending = f"-{seen[row_id]}"
            row_id += ending
            if row.get("pair"):  # the other answer is repeated as often, since a pair's name holds both
                row["pair"] += ending
        row["row_id"] = row_id
    return sum(seen.values()) - len(seen)


def _drawn(rows: list[dict[str, Any]], block: DatasetBlock, where: str) -> list[dict[str, Any]]:
    """Keep `rows` rows that depend on contents and `seed` only; a larger draw holds a smaller one.

    The first `skip` of the draw's order are left out, so that two data sets of one source and seed can share nothing.
    Of kind `safety` so many of each label are meant, and the two answers of a pair stay together.
    """
    strata: dict[str, dict[str, None]] = {}
    for row in rows:
        stratum = "pairs" if row.get("pair") else f"{row.get('label', '')} rows".strip()
        strata.setdefault(stratum, {})[row.get("pair") or row["row_id"]] = None
    kept: set[str] = set()
    for stratum, units in strata.items():
        end = len(units) if block.rows is None else block.skip + block.rows
        if len(units) < end or end <= block.skip:
            asked = f"`rows: {block.rows}`" if block.rows else "every row"
            after = f" after `skip: {block.skip}`" if block.skip else ""
            raise DataError(f"{where}: {asked}{after} asks for more than the {len(units)} usable {stratum}")
        order = sorted(units, key=lambda unit: hashlib.sha256(f"{block.seed} {unit}".encode()).digest())
        kept.update(order[block.skip : end])
    return [row for row in rows if (row.get("pair") or row["row_id"]) in kept]
