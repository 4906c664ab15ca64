"""Blocks of the section `datasets`: the source of the data, their format, and the kind of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from rebend.config.base import Block, NamedBlock, Positive, exactly_one, refers
from rebend.config.decoding import Decoding

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

REFUSAL_COLUMN = "refusal"  # of a file of refusals


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


class JoinedBlock(NamedBlock):
    """The rows of several evaluation data sets, or of several chat data sets, as one data set, in their order.

    Of evaluation prompts, and of whole chats, that occur more than once, only the first is used.
    """

    kind: Literal["evaluation", "chat"] = Field(description="kind of rows")
    reader: Literal["joined"] = Field(description="several data sets as one")
    datasets: list[str] = refers("datasets", "the data sets, in this order; all are of this `kind`", min_length=1)


class SafeAnswers(Block):
    """The source of the safe answers: exactly one of file, instruction."""

    file: str | None = Field(
        None,
        description="table with a column `refusal` (CSV, TSV, JSON lines); relative paths start in the `data` folder. "
        "The refusals are dealt out evenly, in a random order",
    )
    instruction: str | None = Field(
        None,
        min_length=1,
        description="safety instruction under which the model itself answers; an answer is kept if the judge calls it "
        "a refusal. It is a system turn, or stands in front of the prompt if the chat template has no system turn",
    )

    @model_validator(mode="after")
    def one_origin(self) -> SafeAnswers:
        """Refuse none or both."""
        exactly_one(self, "file", "instruction")
        return self


class NearPrompts(Block):
    """Prompts whose meaning is close to a prompt of other data sets: these are not sampled from."""

    encoder: str = refers("encoders", "sentence encoder of the prompts")
    data: list[str] = refers(
        "datasets", "data sets whose prompts are compared, e.g. the reported ones", kind="evaluation", min_length=1
    )
    cosine: float = Field(
        0.8, gt=0, le=1, description="a prompt is left out if its embedding has a cosine above this with one of theirs"
    )


class SampledBlock(NamedBlock):
    """Answers of a model of the catalogue to prompts, which a safety judge reads: keys that all such data have."""

    kind: str = Field(description="kind of rows")
    reader: str = Field(description="answers sampled from a model")
    model: str = refers("models", "the model whose answers are sampled")
    prompts: list[str] = refers("datasets", "data sets whose prompts are asked", min_length=1)
    judge: str = refers("safety_judges", "judge of the answers; it must run on this machine")
    decoding: Decoding = Field(Decoding(max_new_tokens=64), description="how the answers are decoded")
    near: NearPrompts | None = Field(None, description="prompts to leave out because of their meaning")
    without: list[str] = refers(
        "datasets", "leave out prompts that are in one of these data sets, word for word", default=[]
    )
    least: Positive = Field(
        1, description="fewest rows, else the stage ends with an error and the reasons. A change samples nothing again"
    )
    seed: int = Field(0, description="seed of the samples, added to that of `decoding`")


class SampledPairsBlock(SampledBlock):
    """Pairs of a safe and an unsafe answer to harmful prompts; a model of the catalogue gives the unsafe answers.

    For training without a data set of harmful answers. Sampled answers are kept if the judge calls them harmful. The
    rows serve as `examples` and as `paired_examples` of an adapter. Only the owner can read the file.
    """

    kind: Literal["safety"] = Field(description="kind of rows")
    reader: Literal["sampled_pairs"] = Field(description="answers sampled from a model")
    prompts: list[str] = refers(
        "datasets", "data sets whose harmful prompts are asked", kind="evaluation", min_length=1
    )
    safe: SafeAnswers = Field(description="source of the safe answers")
    answers_per_prompt: Positive = Field(1, description="unsafe answers that are kept per prompt, at most")
    tries: Positive = Field(4, description="samples per prompt, at most")
    decoding: Decoding = Field(Decoding(temperature=0.7, max_new_tokens=64), description="how the answers are decoded")
    prefill: str = Field(
        "",
        description="beginning of the unsafe answers, for models that refuse, e.g. `Sure, here is`; they contain it",
    )
    seed: int = Field(0, description="seed of the samples and of the order of refusals, added to that of `decoding`")

    @model_validator(mode="after")
    def tries_are_enough(self) -> SampledPairsBlock:
        """Refuse fewer tries than answers, and several tries that would all give the same answer."""
        if self.tries < self.answers_per_prompt:
            raise ValueError(f"`tries: {self.tries}` is less than `answers_per_prompt: {self.answers_per_prompt}`")
        if self.tries > 1 and self.decoding.temperature == 0 and "do_sample" not in self.decoding.from_checkpoint:
            raise ValueError(
                f"`tries: {self.tries}` needs sampling; `decoding.temperature` is 0, so all answers would be the same"
            )
        return self


class SampledChatsBlock(SampledBlock):
    """Chats of one harmless prompt and the answer of a model of the catalogue, e.g. as `retain_chats` of an adapter.

    Each prompt is asked once. An answer is kept if the judge calls it answered, and neither refused nor incoherent.
    """

    kind: Literal["chat"] = Field(description="kind of rows")
    reader: Literal["sampled_chats"] = Field(description="answers sampled from a model")
    prompts: list[str] = refers(
        "datasets",
        "data sets of kind prompts or evaluation; prompts that an evaluation data set marks as harmful are not asked",
        min_length=1,
    )


# Data sets that other results are made into: name of the reader → class of the block
MADE_DATASETS: dict[str, type[NamedBlock]] = {
    "joined": JoinedBlock,
    "sampled_pairs": SampledPairsBlock,
    "sampled_chats": SampledChatsBlock,
}
