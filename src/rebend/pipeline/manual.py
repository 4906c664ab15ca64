"""Write the manual of keys and the JSON Schema for editors from the settings classes.

`python -m rebend.pipeline.manual` writes both; a test fails if they differ from the classes.
"""

from __future__ import annotations

import functools
import json
import operator
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rebend.config.base import Block
from rebend.config.catalogue import CATALOGUE, block_classes
from rebend.config.datasets import MADE_DATASETS
from rebend.config.study import Caps, Claim, Grid, Study
from rebend.data.readers.registry import load_readers

MANUAL = Path("config/README.md")
SCHEMA = Path("workflow/schemas/config.schema.json")

_HEAD = """# The keys of `config/config.yaml` and `config/studies/*.yaml`

`python -m rebend.pipeline.manual` writes this page from the settings classes. Edit the classes, not this page.

`config.yaml` is the catalogue: sections of named blocks. A study combines blocks by name. There are three
more keys: `study` (the file of `config/studies/` that is built; `--config study=…`), `data` (the folder of
relative paths of data files; `--config data=…`) and `budget` (caps).

* `like: other` copies the block `other` of the same section; the other keys of the block replace the copied ones.
* `{sweep: [a, b]}` as the value of a key replaces the block by one block per value, named
  `<block>_<key>_<value>`; a study that names the block gets all of them.
* `seeds: [0, 1, 2]` in a block of `adapters` or `value_models` trains it once per seed, in blocks named
  `<block>_seed_<n>`; so are blocks that name it (a control on a value model, a sum of adapters). Tables fold them into
  one row: the mean over seeds, with an interval over seeds and prompts together.
* `--configfile other.yaml` is merged into this catalogue; it does not replace it.
* YAML reads `1e-3` as text: write `1.0e-3`.
* Text is never converted to a number, and an unknown key is an error.

RepBend's keys have the names of the released code. In the paper's symbols: `alpha` is ½, `beta` is α,
`gamma` is β, `epsilon` is γ; `eta` is in the released code only. If `gamma` and `epsilon` are both 0, training
changes nothing: adapted and reference states are equal at the start, where the norms have gradient zero.
"""


_COLUMNS = """The columns (of JSON lines: keys) of a source, by kind of data set; of `a` or `b`, one is needed. Other
columns serve for `only`. The second file of a reader is that of the key `reference`.

| reader | kind | columns needed | optional columns |
|---|---|---|---|"""


def manual() -> str:
    """Return the manual of keys as Markdown."""
    parts = [_HEAD]
    for section, kind in CATALOGUE.items():
        parts.append(f"\n## `{section}`\n")
        if isinstance(kind, dict):
            parts.append(f"One of the following, chosen by `method`: {', '.join(f'`{name}`' for name in kind)}.")
            for name, variant in kind.items():
                parts += [f"\n### `method: {name}`\n", _first_paragraph(variant.block), "\n", *_table(variant.block)]
        else:
            parts += [_first_paragraph(kind), "\n", *_table(kind)]
        for name, made in MADE_DATASETS.items() if section == "datasets" else ():
            parts += [f"\n### `reader: {name}`\n", _first_paragraph(made), "\n", *_table(made)]
    parts += ["\n## `budget`\n", _first_paragraph(Caps), "\n", *_table(Caps)]
    parts += ["\n## Readers of data sets\n", "| reader | reads | gives |", "|---|---|---|"]
    parts += [f"| `{name}` | {info.about} | {', '.join(info.kinds)} |" for name, info in load_readers().items()]
    parts += ["\n### Their columns\n", _COLUMNS, *_column_rows()]
    parts += ["\n## A study\n", _first_paragraph(Study), "\n", *_table(Study)]
    parts += ["\n### One of its `grids`\n", _first_paragraph(Grid), "\n", *_table(Grid)]
    parts += ["\n### One of its `claims`\n", _first_paragraph(Claim), "\n", *_table(Claim)]
    return "\n".join(parts) + "\n"


def schema() -> str:
    """Return the JSON Schema of `config.yaml` for editors; it does not check `like` and `sweep`."""
    sections = {name: _blocks_of(name).json_schema() for name in CATALOGUE}
    sections["budget"] = Caps.model_json_schema()
    definitions: dict[str, Any] = {}
    for section in sections.values():
        definitions |= section.pop("$defs", {})
    top: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "rebend catalogue",
        "type": "object",
        "additionalProperties": False,
        "properties": {"study": {"type": "string"}, "data": {"type": "string"}, **sections},
        "$defs": definitions,
    }
    return json.dumps(top, indent=1, sort_keys=True) + "\n"


def _column_rows() -> Iterator[str]:
    """Yield one row per reader and kind with the columns of the source, and one per second file."""
    for name, reader in load_readers().items():
        if reader.generate is not None:
            continue  # no source
        for kind, columns in reader.columns.items():
            yield f"| `{name}` | {kind} | {_column_names(columns)} | {_column_names(reader.optional.get(kind, ()))} |"
        if reader.reference:
            yield f"| `{name}` | second file | {_column_names(reader.second_columns)} | |"


def _column_names(columns: Sequence[str]) -> str:
    return ", ".join(" or ".join(f"`{name}`" for name in column.split("|")) for column in columns)


def _blocks_of(section: str) -> TypeAdapter[Any]:
    """Return the type of a section: a mapping from names to blocks of any of its classes."""
    block_class: Any = functools.reduce(operator.or_, block_classes(section))
    blocks: Any = dict[str, block_class]
    return TypeAdapter(blocks)


def _table(kind: type[Block]) -> Iterator[str]:
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    yield from _rows(kind, "")


def _rows(kind: type[Block], prefix: str) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        inner = _inner(field.annotation)
        default = _default(field)
        meaning = (field.description or "").replace("|", "\\|")
        yield f"| `{prefix}{name}` | {_words(field.annotation)} | {default} | {meaning} |"
        if inner is not None and not _is_list(field.annotation):
            yield from _rows(inner, f"{prefix}{name}.")


def _inner(annotation: Any) -> type[Block] | None:
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return annotation
    return next((inner for arg in typing.get_args(annotation) if (inner := _inner(arg)) is not None), None)


def _is_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) is list or any(_is_list(arg) for arg in typing.get_args(annotation))


def _words(annotation: Any) -> str:
    """Return a type in words: `number`, `text`, `a \\| b`, `list of text`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _words(arguments[0])
    if origin is typing.Literal:
        return " \\| ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(part) for part in arguments if part is not type(None))
    if origin is list:
        return f"list of {_words(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return "keys"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(annotation, "keys")


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "needed"
    if field.default is None:
        return "absent"
    if isinstance(field.default, Block):
        return "see below"
    return f"`{json.dumps(field.default)}`"


def _first_paragraph(kind: type[Block]) -> str:
    return (kind.__doc__ or "").strip()


if __name__ == "__main__":
    MANUAL.write_text(manual(), encoding="utf-8")
    SCHEMA.parent.mkdir(parents=True, exist_ok=True)
    SCHEMA.write_text(schema(), encoding="utf-8")
    print(f"written: {MANUAL}, {SCHEMA}")
