"""Blocks of the section `datasets`: where data come from, and which kind of rows they give."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from rebend.config.base import Block, NamedBlock, Positive, exactly_one


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


class DatasetBlock(NamedBlock):
    """A data set: where it lies, how it is read, and which kind of rows it gives."""

    kind: Literal["preference", "prompts", "chat", "safety", "evaluation"] = Field(
        description="the Parquet schema that it is brought into (`rebend.io.schemas`)"
    )
    reader: str = Field(description="how the source is read (`rebend.data.datasets.READERS`)")
    source: DataSource = Field(description="where it comes from")
    reference: DataSource | None = Field(
        None,
        description="a second file, for readers that have one: RE-Control's preferred comments line by line, "
        "HarmBench's targets or behaviours by BehaviorID",
    )
    only: dict[str, str | list[str]] = Field(
        {}, description="keep only source rows whose column holds this word, or one of these: `{column: word}`"
    )
    rows: Positive | None = Field(
        None, description="keep so many rows, drawn with `seed` (kind safety: so many of each label); all if absent"
    )
    skip: int = Field(
        0,
        ge=0,
        description="leave out so many rows first, in the order of that draw: with one seed, `rows: 400` and "
        "`skip: 400` share no row",
    )
    seed: int = Field(0, description="seed of that draw")
