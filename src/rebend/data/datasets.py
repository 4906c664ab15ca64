"""Convert a source of any format to one table of the block's kind, with stable row ids."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from rebend.config.datasets import DatasetBlock, WorldPart
from rebend.data.clusters import FIELD as CLUSTER
from rebend.data.clusters import add_clusters
from rebend.data.readers.raw import SourceRow, read_rows
from rebend.data.readers.reader import columns_sentence, missing_columns
from rebend.data.readers.registry import load_reader, reader_mistakes
from rebend.data.readers.rows import (
    Row,
    UnselectedRowError,
    UnusableRowError,
    checked_dialogue,
    content_id,
    is_missing,
    written_form,
)
from rebend.errors import ConfigError, DataError, likely_typo
from rebend.io.prompts import prompts_in
from rebend.io.schemas import KINDS

_MAY_BE_NULL = ("reference", "pair", "request", CLUSTER)


class PreparedDataset(NamedTuple):
    """A data set, and the counts of read, dropped and repeated rows."""

    table: pa.Table
    read: int  # rows of the source
    dropped: dict[str, int]  # unusable and unselected rows of the source, by reason
    repeated: int  # usable rows with the content of an earlier row; they are kept


def prepare_dataset(
    block: DatasetBlock,
    source_path: Path | None = None,
    reference_path: Path | None = None,
    without: Mapping[str, Collection[str]] | None = None,
) -> PreparedDataset:
    """Return the data set of `block` as a table of the schema `KINDS[block.kind]`.

    `source_path` and `reference_path` are the files of `block.source` and `block.reference` (None for the tiny world).
    `without` has the prompts (`rebend.io.prompts.prompts_in`) of each data set in `block.without`.
    A row id is a digest of the row's content without its cluster, with the suffixes "-2", "-3" ... for repeated rows,
    so that neither file order nor `block.rows` changes it. Rows keep the order of the file.

    Raises `ConfigError` if the reader does not support the block's settings. Raises `DataError` (with file and line) if
    the source is damaged, has no usable row or fewer than `block.rows`, or if safety data have only one label.
    """
    part = block.source.world
    of_part = part.part if part else None
    if mistakes := reader_mistakes(block.reader, block.kind, of_part, block.reference is not None, block.variant):
        raise ConfigError("; ".join(mistakes))
    dropped: Counter[str] = Counter()
    if part is not None:
        where, (read, rows) = f"part '{part.part}' of the world", _from_world(block, part)
    else:
        where, (read, rows) = str(source_path), _from_file(block, source_path, reference_path, dropped)
    for name, prompts in (without or {}).items():
        kept = [row for row in rows if not any(prompt in prompts for prompt in prompts_in(row["messages"]))]
        if len(kept) < len(rows):
            dropped[f"prompt of '{name}'"] = len(rows) - len(kept)
        rows = kept
    if not rows:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.most_common()) or "it holds no rows"
        raise DataError(f"{where}: no row can be used as {block.kind} by reader '{block.reader}' ({reasons})")
    if block.kind == "safety" and len(labels := {row["label"] for row in rows}) == 1:
        raise DataError(
            f"{where}: all {len(rows)} usable answers are {labels.pop()}; safe and unsafe answers are needed"
        )
    repeated = _add_row_ids(rows)
    kept = _draw(rows, block, where) if block.rows or block.skip else rows
    add_clusters(block.kind, kept)
    table = pa.Table.from_pylist(kept, schema=KINDS[block.kind])
    return PreparedDataset(table, read, dict(dropped.most_common()), repeated)


def _from_world(block: DatasetBlock, part: WorldPart) -> tuple[int, list[dict[str, Any]]]:
    generate = load_reader(block.reader).generate
    assert generate is not None  # `reader_mistakes` accepts only this reader for the tiny world
    rows = [_checked(block.kind, row) for row in generate(part.part, part.rows, part.seed)]
    return len(rows), rows


def _from_file(
    block: DatasetBlock, source: Path | None, reference: Path | None, dropped: Counter[str]
) -> tuple[int, list[dict[str, Any]]]:
    """Read, convert and check all rows; count the rows to leave out in `dropped`."""
    if source is None or (block.reference is not None and reference is None):
        raise DataError(f"reader '{block.reader}' needs a file, but none was passed")
    reader = load_reader(block.reader)
    word = (block.user_word or "Human") if block.variant == "released_code" else None
    read = 0
    rows = []
    for source_row in _join(source, reference, block):
        read += 1
        try:
            _select(source_row, block.only)
            rows += [_checked(block.kind, row) for row in reader.convert(block.kind, source_row, word)]
        except UnusableRowError as reason:
            dropped[str(reason)] += 1
    return read, rows


def _select(source_row: SourceRow, only: Mapping[str, str | list[str]]) -> None:
    """Raise `UnselectedRowError` unless each column of `only` holds one of its words."""
    for column, words in only.items():
        if column not in source_row.row:
            typo = likely_typo(column, source_row.row)
            raise DataError(f"{source_row.place}: column '{column}' of `only` is missing.{typo}")
        value = source_row.row[column]
        if is_missing(value) or written_form(value) not in ([words] if isinstance(words, str) else words):
            raise UnselectedRowError(f"{column} has a value that `only` excludes")


def _join(source: Path, reference: Path | None, block: DatasetBlock) -> Iterator[SourceRow]:
    """Yield the rows of `source`, joined with the columns of `reference` if there is one."""
    reader = load_reader(block.reader)
    rows = read_rows(source, mapping=reader.entries)
    if reference is None:
        return rows
    answers = _with_columns(read_rows(reference, mapping=reader.reference_entries), block)
    return _by_key(rows, answers, block) if reader.key else _by_line(rows, answers, source, reference)


def _with_columns(rows: Iterator[SourceRow], block: DatasetBlock) -> Iterator[SourceRow]:
    """Yield the rows of the second file with only the columns that the reader uses."""
    reader = load_reader(block.reader)
    for source_row in rows:
        if missing := missing_columns(reader.second_columns, source_row.row):
            raise DataError(
                f"{source_row.place}: {columns_sentence(block.reader, block.kind, missing, source_row.row)}"
            )
        yield source_row._replace(row={name: source_row.row[name] for name in reader.second_columns})


def _by_line(
    rows: Iterator[SourceRow], answers: Iterator[SourceRow], source: Path, reference: Path
) -> Iterator[SourceRow]:
    """Yield line n of the first file with the columns of line n of the second file."""
    for source_row in rows:
        answer = next(answers, None)
        if answer is None or answer.number != source_row.number:
            problem = "the file has ended" if answer is None else f"the next row is {answer.place}"
            raise DataError(f"{reference}: line n must answer line n of {source}; at {source_row.place} {problem}")
        yield source_row._replace(row={**source_row.row, **answer.row})
    if (extra := next(answers, None)) is not None:
        raise DataError(f"{extra.place}: {source} has no such line; line n must answer line n")


def _by_key(rows: Iterator[SourceRow], answers: Iterator[SourceRow], block: DatasetBlock) -> Iterator[SourceRow]:
    """Yield each row with the columns of the row of the second file with the same key, or None in these columns."""
    reader = load_reader(block.reader)
    by_key: dict[str, Row] = {}
    for answer in answers:
        key = _key(answer, reader.key)
        if key in by_key:
            raise DataError(f"{answer.place}: {reader.key} '{key}' occurs twice")
        by_key[key] = answer.row
    missing = dict.fromkeys(reader.reference)
    for source_row in rows:
        if reader.key not in source_row.row:
            raise DataError(
                f"{source_row.place}: {columns_sentence(block.reader, block.kind, [reader.key], source_row.row)}"
            )
        yield source_row._replace(row={**source_row.row, **missing, **by_key.get(_key(source_row, reader.key), {})})


def _key(source_row: SourceRow, column: str) -> str:
    """Return the value by which two files are joined. Raises `DataError` if it is missing or no text."""
    value = source_row.row[column]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{source_row.place}: '{column}' is {value!r:.60}; a text is needed that both files share")
    return value


def _checked(kind: str, row: Row) -> dict[str, Any]:
    """Return `row` as a dict.

    Raises ValueError, since the reader has a bug, unless `row` has exactly the fields of its kind with their types
    (`cluster` is optional).
    Raises `UnusableRowError` if the roles of its messages are in a wrong order, or if its text is no valid Unicode.
    """
    schema = KINDS[kind]
    fields = [name for name in schema.names if name != "row_id" and (name != CLUSTER or name in row)]
    if sorted(row) != sorted(fields):
        raise ValueError(f"a row of kind '{kind}' has {sorted(row)}; expected {sorted(fields)}")
    for name in fields:
        value, field_type = row[name], schema.field(name).type
        if value is None and name in _MAY_BE_NULL:
            continue
        if name != "messages" and not isinstance(value, bool if pa.types.is_boolean(field_type) else str):
            raise ValueError(f"field '{name}' of kind '{kind}' is {value!r}; expected {field_type}")
    if row.get("label") not in (None, "safe", "unsafe"):
        raise ValueError(f"label is {row['label']!r}; allowed: safe, unsafe")
    last = checked_dialogue(row["messages"])[-1]["role"]
    if (last == "assistant") != (kind == "chat"):
        raise ValueError(f"the messages of a row of kind '{kind}' end with the {last}'s turn")
    content_id(row)  # raises for invalid Unicode now, while the row can be left out
    return dict(row)


def _add_row_ids(rows: list[dict[str, Any]]) -> int:
    """Add to every row an id that depends on its content only; return the number of repeated rows."""
    seen: Counter[str] = Counter()
    for row in rows:
        row_id = content_id({name: value for name, value in row.items() if name != CLUSTER})
        seen[row_id] += 1
        if seen[row_id] > 1:
            ending = f"-{seen[row_id]}"
            row_id += ending
            if row.get(
                "pair"
            ):  # both answers of a pair repeat equally often, because the pair's name is a digest of both
                row["pair"] += ending
        row["row_id"] = row_id
    return sum(seen.values()) - len(seen)


def _draw(rows: list[dict[str, Any]], block: DatasetBlock, where: str) -> list[dict[str, Any]]:
    """Return `block.rows` rows, drawn by their contents and `block.seed` only; a larger draw contains a smaller one.

    The first `block.skip` rows in the order of the draw are left out, so that two data sets with the same source and
    seed can be disjoint. For kind `safety`, both numbers count per label, and the answers of a pair stay together.
    """
    strata: dict[str, dict[str, None]] = {}
    for row in rows:
        stratum = "pairs" if row.get("pair") else f"{row.get('label', '')} rows".strip()
        strata.setdefault(stratum, {})[row.get("pair") or row["row_id"]] = None
    kept: set[str] = set()
    for stratum, units in strata.items():
        end = len(units) if block.rows is None else block.skip + block.rows
        if len(units) < end or end <= block.skip:
            request = f"`rows: {block.rows}`" if block.rows else "every row"
            after = f" after `skip: {block.skip}`" if block.skip else ""
            raise DataError(f"{where}: {request}{after} asks for more than the {len(units)} usable {stratum}")
        order = sorted(units, key=lambda unit: hashlib.sha256(f"{block.seed} {unit}".encode()).digest())
        order = _by_category(order, rows) if block.stratified else order
        kept.update(order[block.skip : end])
    return [row for row in rows if (row.get("pair") or row["row_id"]) in kept]


def _by_category(order: list[str], rows: list[dict[str, Any]]) -> list[str]:
    """Return row ids so that every beginning of the list has nearly the same share of each category.

    The i-th of the n rows of a category, in the given order, stands at the place (i + ½) / n.
    """
    category = {row["row_id"]: row["category"] for row in rows}
    sizes, seen = Counter(category[row_id] for row_id in order), Counter[str]()
    place: dict[str, float] = {}
    for row_id in order:
        place[row_id] = (seen[category[row_id]] + 0.5) / sizes[category[row_id]]
        seen[category[row_id]] += 1
    return sorted(order, key=place.__getitem__)
