"""Blocks of the section `datasets`: the source of the data, their format, and the kind of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from rebend.config.base import Block, NamedBlock, Positive, exactly_one, refers

READERS = {  # import paths of `rebend.data.readers.reader.Reader` objects
    "hh_rlhf": "rebend.data.readers.hh_rlhf:HH_RLHF",
    "shp": "rebend.data.readers.shp:SHP",
    "recontrol": "rebend.data.readers.recontrol:RECONTROL",
    "wildjailbreak": "rebend.data.readers.safety.wildjailbreak:WILDJAILBREAK",
    "wildguardmix": "rebend.data.readers.safety.wildguardmix:WILDGUARDMIX",
    "wildguardmix_prompts": "rebend.data.readers.safety.wildguardmix:WILDGUARDMIX_PROMPTS",
    "ultrachat": "rebend.data.readers.ultrachat:ULTRACHAT",
    "harmbench": "rebend.data.readers.safety.harmbench:HARMBENCH",
    "harmbench_cases": "rebend.data.readers.safety.harmbench_cases:HARMBENCH_CASES",
    "do_anything_now": "rebend.data.readers.safety.do_anything_now:DO_ANYTHING_NOW",
    "trustllm_jailbreak": "rebend.data.readers.safety.trustllm_jailbreak:TRUSTLLM_JAILBREAK",
    "pap": "rebend.data.readers.safety.pap:PAP",
    "xstest": "rebend.data.readers.safety.xstest:XSTEST",
    "strongreject": "rebend.data.readers.safety.strongreject:STRONGREJECT",
    "simple_safety_tests": "rebend.data.readers.safety.simple_safety_tests:SIMPLE_SAFETY_TESTS",
    "guidedbench": "rebend.data.readers.safety.guidedbench:GUIDEDBENCH",
    "harmfulqa": "rebend.data.readers.safety.harmfulqa:HARMFULQA",
    "table": "rebend.data.readers.table:TABLE",
    "world": "rebend.data.readers.world:WORLD",
}


class HubFile(Block):
    """A file, or several joined files, of a data set repository on the Hugging Face hub, at a pinned revision."""

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
        """The paths inside the repository, as a list."""
        return [self.file] if isinstance(self.file, str) else self.file

    @model_validator(mode="after")
    def joined_files_are_lines(self) -> HubFile:
        """Refuse paths outside the repository, and several files unless they are JSON lines of one name."""
        if not self.files:
            raise ValueError("`file` names no file")
        if outside := [name for name in self.files if name.startswith("/") or ".." in name.split("/")]:
            raise ValueError(f"`file` must be inside the repository; '{outside[0]}' is not")
        if len({Path(name).name for name in self.files}) > 1 or (len(self.files) > 1 and ".json" not in self.files[0]):
            raise ValueError("several files are joined only if all are JSON lines of one name, e.g. */train.jsonl.gz")
        return self


class WorldPart(Block):
    """A part of the embedded tiny world (`rebend.data.tiny_world.generate`).

    Training, validation and test parts share no item.
    """

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
    ] = Field(description="part of the world; validation and test parts have only items that no training part has")
    rows: int = Field(gt=0, description="number of generated rows")
    seed: int = Field(0, description="seed of the generator")


class DataSource(Block):
    """The source of a file or of generated rows: exactly one of local, url, hub, world."""

    local: str | None = Field(None, description="path; relative paths start in the `data` folder")
    url: str | None = Field(None, description="address of the file (http, https or file)")
    sha256: str | None = Field(None, description="expected SHA-256 of the file behind `url`")
    hub: HubFile | None = Field(None, description="a file of a hub repository")
    world: WorldPart | None = Field(None, description="rows of the embedded tiny world, generated")

    @model_validator(mode="after")
    def one_source(self) -> DataSource:
        """Refuse none or several sources, and an address with a secret."""
        exactly_one(self, "local", "url", "hub", "world")
        if self.url is not None and "@" in urlsplit(self.url).netloc:
            raise ValueError("records would contain the user or password of this `url`; download the file yourself")
        return self


class DatasetBlock(NamedBlock):
    """A data set: its source, its format, and the kind of its rows."""

    kind: Literal["preference", "prompts", "chat", "safety", "evaluation"] = Field(
        description="kind of rows: the Parquet schema (`rebend.io.schemas`)"
    )
    reader: str = Field(description="format of the source (`rebend.config.datasets.READERS`)")
    source: DataSource = Field(description="source of the data")
    reference: DataSource | None = Field(
        None,
        description="second file of some readers: RE-Control's preferred comments line by line, HarmBench's targets or "
        "behaviours by BehaviorID",
    )
    variant: Literal["released_code", "corrected"] = Field(
        "corrected",
        description="`corrected`: prompts are the dialogues of the data, which the model's chat template writes. "
        "`released_code` (readers hh_rlhf, shp, recontrol): each prompt is one text, byte for byte as RE-Control's "
        "released code writes it; for models and rewards with the same `variant`",
    )
    user_word: Literal["Human", "User"] | None = Field(
        None,
        description="the user's word in the texts of `variant: released_code`, which depends on the model there: Human "
        "(the default) for Vicuna, User for Llama 3 and Falcon",
    )
    only: dict[str, str | list[str]] = Field(
        {}, description="keep only source rows with this word, or one of these words, in a column: `{column: word}`"
    )
    rows: Positive | None = Field(
        None, description="number of rows, drawn with `seed` (kind safety: per label); all if absent"
    )
    skip: int = Field(
        0,
        ge=0,
        description="number of rows to skip at the start of the draw: with the same seed, `rows: 400` and `skip: 400` "
        "share no row",
    )
    stratified: bool = Field(
        False,
        description="draw the same share of each category (kind evaluation): with the same seed, `rows: 50` and "
        "`rows: 10` with `skip: 50` are two parts that share no row and have nearly the same categories",
    )
    seed: int = Field(0, description="seed of the draw")
    without: list[str] = refers(
        "datasets",
        "leave out rows whose prompt is in one of these data sets, before the draw, e.g. prompts of a test set in "
        "training data",
        default=[],
    )

    @model_validator(mode="after")
    def categories_are_drawn(self) -> DatasetBlock:
        """Refuse `stratified` for rows without categories, and without a draw."""
        if self.stratified and self.kind != "evaluation":
            raise ValueError(f"`stratified` needs categories, which only kind evaluation has; this is of {self.kind}")
        if self.stratified and self.rows is None and not self.skip:
            raise ValueError("`stratified` needs a draw: give `rows` or `skip`")
        return self

    @model_validator(mode="after")
    def released_texts_are_prompts(self) -> DatasetBlock:
        """Refuse `released_code` for another kind than prompts, and the user's word without it."""
        if self.variant == "released_code" and self.kind != "prompts":
            raise ValueError(f"`variant: released_code` is for kind prompts; this is of kind {self.kind}")
        if self.user_word is not None and self.variant == "corrected":
            raise ValueError("`user_word` needs `variant: released_code`; otherwise the model's chat template has it")
        return self
