"""Where a data set or a model comes from: the hub, an address, a local path, or built in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Rate = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class Block(BaseModel):
    """A group of settings: unknown keys are refused, text is never taken for a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


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


class HubFile(Block):
    """A file of a data set repository on the Hugging Face hub, at a pinned revision; or several, joined."""

    repo: str = Field(description="repository, owner/name")
    revision: str = Field(
        min_length=1, description="commit of the repository (a branch drifts; its commit is recorded)"
    )
    file: str | list[str] = Field(
        description="path inside the repository; several files of JSON lines are joined in this order"
    )
    gated: bool = Field(False, description="true if the hub asks for an accepted licence (needs HF_TOKEN)")

    @property
    def files(self) -> list[str]:
        """The paths inside the repository, also where there is only one."""
        return [self.file] if isinstance(self.file, str) else self.file

    @model_validator(mode="after")
    def joined_files_are_lines(self) -> HubFile:
        """Only files of JSON lines can be joined end to end."""
        if not self.files:
            raise ValueError("`file` names no file")
        if outside := [name for name in self.files if name.startswith("/") or ".." in name.split("/")]:
            raise ValueError(f"`file` lies inside the repository; '{outside[0]}' leads out of it")
        if len({Path(name).name for name in self.files}) > 1 or (len(self.files) > 1 and ".json" not in self.files[0]):
            raise ValueError("several files are joined only if all are JSON lines of one name, e.g. */train.jsonl.gz")
        return self


class HubModel(Block):
    """A model repository on the Hugging Face hub, at a pinned revision."""

    trust_remote_code: bool = Field(
        False,
        description="true runs Python code of the repository when the model is loaded; `revision` must then be a full "
        "commit, whose code you have read",
    )

    repo: str = Field(description="repository, owner/name")
    revision: str = Field(
        min_length=1, description="commit of the repository (a branch drifts; its commit is recorded)"
    )
    gated: bool = Field(False, description="true if the hub asks for an accepted licence (needs HF_TOKEN)")

    @model_validator(mode="after")
    def trusted_code_is_pinned(self) -> HubModel:
        """Code behind a branch is another one tomorrow."""
        if self.trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(
                "`trust_remote_code` runs the repository's code; `revision` must be a full commit (40 digits)"
            )
        return self


class WorldPart(Block):
    """A part of the embedded tiny world (`rebend.data.tiny_world`); training, validation and test never share a thing."""

    part: Literal[
        "dialogues",
        "preferences",
        "safety",
        "retain",
        "rollouts",
        "validation",
        "test",
        "safety_validation",
        "safety_test",
        "answers_test",
    ] = Field(description="which part of the world; those for validation and test hold only items never trained on")
    rows: int = Field(gt=0, description="how many rows to generate")
    seed: int = Field(0, description="seed of the generator")


class DataSource(Block):
    """Exactly one of the four."""

    local: str | None = Field(None, description="path; a relative one is looked up in the `data` folder")
    url: str | None = Field(None, description="address of the file (http, https or file)")
    sha256: str | None = Field(None, description="expected digest of the file behind `url`")
    hub: HubFile | None = Field(None, description="a file of a hub repository")
    world: WorldPart | None = Field(None, description="generated: the embedded tiny world")

    @model_validator(mode="after")
    def one_source(self) -> DataSource:
        """Refuse none or several."""
        exactly_one(self, "local", "url", "hub", "world")
        if self.url is not None and "@" in urlsplit(self.url).netloc:
            raise ValueError("`url` with a user or a password would be written into records; download it yourself")
        return self


# Keys that change how a stage runs, never what comes out
_MACHINE = {"resources", "concurrency", "retries", "ranks", "zero"}
ASKING = {"timeout", "concurrency", "retries"}  # of an address inside a block


def settings(block: Block, without: Iterable[str] = ()) -> dict[str, Any]:
    """A block as plain values, without what cannot change a result."""
    return block.model_dump(exclude={**dict.fromkeys((*_MACHINE, *without), True), "http": ASKING})
