"""What every block of settings is: its fields, references to other blocks, resources and plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(ge=0, le=1)]


Positive = Annotated[int, Field(gt=0)]


class Block(BaseModel):
    """A group of settings: unknown keys are refused, text is never taken for a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NamedBlock(Block):
    """A block that stands in tables: under its name or a label, and beside the numbers that a paper prints for it.

    Neither key is a setting of a stage (`exclude` leaves both out of every dump), so a change of them makes tables
    again and nothing else.
    """

    label: str | None = Field(
        None, min_length=1, exclude=True, description="what tables and figures call it; its name if absent"
    )
    published: str | list[str] | None = Field(
        None,
        exclude=True,
        description="the name or names under which a paper prints it (in `resources/published/*.csv`): the printed "
        "numbers are put beside ours; not taken over by `like`",
    )

    @property
    def printed_names(self) -> list[str]:
        """The printed names, also where there is one or none."""
        names = self.published or []
        return [names] if isinstance(names, str) else names


class Method(NamedTuple):
    """One method of a section: the class of its settings, and its code as "module:attribute".

    The code is named, not imported, so that nothing heavy loads while Snakemake parses, and so that a stage's digest
    covers the chosen method alone (`rebend.io.registry.load_code` imports it).
    """

    block: type[Block]
    code: str


def refers(section: str, description: str, *, kind: str | None = None, **field: Any) -> Any:
    """Declare a key (or a list) that names blocks of `section`; data sets must be of `kind`."""
    return Field(description=description, json_schema_extra={"refers": section, "kind": kind}, **field)


class Reference(NamedTuple):
    """A name inside a block that points to another block."""

    key: str
    section: str
    kind: str | None
    name: str


def references(block: Block) -> Iterator[Reference]:
    """Yield every reference of a block, in blocks and lists of blocks nested inside it too."""
    for key, field in type(block).model_fields.items():
        value = getattr(block, key)
        if nested := _nested(key, value):
            for place, inner in nested:
                yield from (found._replace(key=f"{place}.{found.key}") for found in references(inner))
        elif isinstance(field.json_schema_extra, dict) and "refers" in field.json_schema_extra and value is not None:
            section, kind = field.json_schema_extra["refers"], field.json_schema_extra["kind"]
            for name in value if isinstance(value, list) else [value]:
                yield Reference(key, str(section), str(kind) if kind else None, name)


def _nested(key: str, value: Any) -> list[tuple[str, Block]]:
    """The blocks that a value is or holds, each with its place."""
    if isinstance(value, Block):
        return [(key, value)]
    listed = value if isinstance(value, list) else []
    return [(f"{key}.{number}", inner) for number, inner in enumerate(listed) if isinstance(inner, Block)]


def exactly_one(block: Block, *names: str) -> None:
    """Raise ValueError unless exactly one of these keys is given."""
    given = [name for name in names if getattr(block, name) is not None]
    if len(given) != 1:
        raise ValueError(f"needs exactly one of {', '.join(names)}; got {given or 'none'}")


def plain_address(value: str | None) -> str | None:
    """Return an http address as it is; raise ValueError for one that holds a secret (settings are written down)."""
    if value is None:
        return value
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an address begins with http:// or https://, e.g. http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ValueError("an address with a user, a password or a query would be written into records; use the key")
    return value


Address = Annotated[str, AfterValidator(plain_address)]


class Resources(Block):
    """What one job with this model asks of the machine."""

    gpu: int = Field(0, ge=0, description="GPUs per job")
    mem_mb: Positive = Field(4000, description="memory per job, MB")
    runtime: Positive = Field(60, description="time limit per job, minutes")


# Keys that change how a stage runs, never what comes out
_MACHINE = {"resources", "concurrency", "retries", "ranks", "zero"}


ASKING = {"timeout", "concurrency", "retries"}  # of an address inside a block


def settings(block: Block, without: Iterable[str] = ()) -> dict[str, Any]:
    """A block as plain values, without what cannot change a result."""
    return block.model_dump(exclude={**dict.fromkeys((*_MACHINE, *without), True), "http": ASKING})
