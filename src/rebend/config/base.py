"""The base of all blocks of settings: fields, references to other blocks, resources and plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class Block(BaseModel):
    """A group of settings. Unknown keys are errors, and text is not converted to numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NamedBlock(Block):
    """A block that is a row or a column of tables, with a label and with its names in a paper's tables.

    Neither key is a setting of a stage (`exclude` leaves both out of every dump): after a change, only tables are
    written again.
    """

    label: str | None = Field(
        None, min_length=1, exclude=True, description="name in tables and figures; the block's name if absent"
    )
    published: str | list[str] | None = Field(
        None,
        exclude=True,
        description="its name or names in a paper's tables (in `resources/published/*.csv`): tables show the printed "
        "numbers beside ours; `like` does not copy this key",
    )

    @property
    def printed_names(self) -> list[str]:
        """The names in the paper, as a list."""
        names = self.published or []
        return [names] if isinstance(names, str) else names


class Method(NamedTuple):
    """One method of a section: the class of its settings, and the import path of its code, "module:attribute".

    The code is not imported here, so that Snakemake parses without heavy imports, and so that a stage's digest covers
    only the chosen method. `rebend.io.registry.load_code` imports it.
    """

    block: type[Block]
    code: str


def refers(section: str, description: str, *, kind: str | None = None, **field: Any) -> Any:
    """Return the field of a key whose value is a name, or a list of names, of blocks of `section` (of `kind`)."""
    return Field(description=description, json_schema_extra={"refers": section, "kind": kind}, **field)


class Reference(NamedTuple):
    """A key of a block, and the block that its value names."""

    key: str
    section: str
    kind: str | None
    name: str


def references(block: Block) -> Iterator[Reference]:
    """Yield all references of a block, and of the blocks and lists of blocks inside it."""
    for key, field in type(block).model_fields.items():
        value = getattr(block, key)
        if nested := _nested(key, value):
            for place, inner in nested:
                yield from (reference._replace(key=f"{place}.{reference.key}") for reference in references(inner))
        elif isinstance(field.json_schema_extra, dict) and "refers" in field.json_schema_extra and value is not None:
            section, kind = field.json_schema_extra["refers"], field.json_schema_extra["kind"]
            for name in value if isinstance(value, list) else [value]:
                yield Reference(key, str(section), str(kind) if kind else None, name)


def _nested(key: str, value: Any) -> list[tuple[str, Block]]:
    """Return the blocks in a value with their keys: the value itself, or the items of a list."""
    if isinstance(value, Block):
        return [(key, value)]
    items = value if isinstance(value, list) else []
    return [(f"{key}.{number}", inner) for number, inner in enumerate(items) if isinstance(inner, Block)]


def exactly_one(block: Block, *names: str) -> None:
    """Raise ValueError unless exactly one of these keys is set."""
    present = [name for name in names if getattr(block, name) is not None]
    if len(present) != 1:
        raise ValueError(f"needs exactly one of {', '.join(names)}; got {present or 'none'}")


def checked_address(value: str | None) -> str | None:
    """Return an HTTP address unchanged. Raises ValueError if it contains a secret, because records contain settings."""
    if value is None:
        return value
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an address begins with http:// or https://, e.g. http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ValueError("records would contain the user, password or query of this address; use the API key instead")
    return value


Address = Annotated[str, AfterValidator(checked_address)]


class Resources(Block):
    """Resources of one job with this model."""

    gpu: int = Field(0, ge=0, description="GPUs per job")
    mem_mb: Positive | None = Field(
        None,
        description="memory per job, MB; absent: estimated from the model's size, batches and lengths "
        "(4000 while the size is not known, before a download)",
    )
    runtime: Positive = Field(60, description="time limit per job, minutes")


# Keys that affect the run of a stage, never its result
_RUN_OPTIONS = {"resources", "concurrency", "retries", "ranks", "zero"}


ENDPOINT_OPTIONS = {"timeout", "concurrency", "retries"}  # keys of an endpoint that affect no result


def settings(block: Block, without: Iterable[str] = ()) -> dict[str, Any]:
    """Return a block as plain values, without the keys that cannot affect a result."""
    return block.model_dump(exclude={**dict.fromkeys((*_RUN_OPTIONS, *without), True), "http": ENDPOINT_OPTIONS})
