"""Blocks of the section `adapters`: RepBend, the methods compared with it, and adapters released by others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from rebend.config.base import Block, Method, NamedBlock, Positive, Rate, exactly_one, refers
from rebend.config.models import HubModel

RELEASED_SPELLINGS = {
    "request_last": "prompt_last",
    "request_all": "prompt_all",
    "request_response": "prompt_response",
}


class AdapterBlock(NamedBlock):
    """The key of all adapters."""

    method: str = Field(description="the training method")

    def last_target(self) -> int | None:
        """Return the last index into `hidden_states` that the loss reads; None if it reads the output."""
        return None

    def middle_target(self) -> int | None:
        """Return the index of the states that the report projects; None for the state after the final norm."""
        return self.last_target()


class TrainedAdapter(AdapterBlock):
    """The keys of all adapters trained in the graph: data, LoRA, optimiser, memory and processes."""

    examples: str = refers("datasets", "safety data set of single safe and unsafe answers", kind="safety")
    paired_examples: str = refers(
        "datasets", "safety data set of paired safe and unsafe answers to one prompt", kind="safety"
    )
    retain_chats: str = refers("datasets", "chat data set on which the model's behaviour is kept", kind="chat")
    max_step: Positive = Field(450, description="optimiser steps")
    batch_size: Positive = Field(16, description="training items per step")
    micro_batch: Positive | None = Field(
        None,
        description="items per group; a step averages the losses of its groups, like gradient accumulation (released "
        "code: 4). Absent: all items of a step. The peak memory depends on it",
    )
    lr: float = Field(1.0e-5, gt=0, description="constant learning rate of AdamW")
    lora_r: Positive = Field(16, description="rank of the adapter")
    lora_alpha: Positive = Field(16, description="scale of the adapter (times 1/rank)")
    lora_dropout: Rate = Field(0.05, description="dropout inside the adapter")
    transform_layers: list[int] = Field(
        [-1], description="blocks with LoRA; [-1]: all up to the last target layer, or all if there is no target layer"
    )
    max_length: Positive = Field(512, description="longest prompt and longest response, tokens")
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, about a third more time"
    )
    base_bits: Literal[4, 8, 16] = Field(
        16, description="bits of the frozen base's weights while training; 4 and 8 need bitsandbytes. 16: its dtype"
    )
    mixed_precision: Literal["bfloat16"] | None = Field(
        None,
        description="type of the matrix products while training; weights, norms and losses keep their own. About twice "
        "as fast as float32 on processors with bfloat16 instructions (AVX-512 BF16, AMX), slower on others. Absent: "
        "the base's dtype",
    )
    ranks: Positive = Field(
        1, description="processes that share the groups of a step; each uses one GPU, if there are GPUs"
    )
    zero: Literal[0, 1, 2, 3] = Field(0, description="stage of DeepSpeed ZeRO; 0 trains without DeepSpeed")
    seed: int = Field(0, description="seed of adapter, batches and dropout")

    @property
    def n_groups(self) -> int:
        """Number of groups per step."""
        return self.batch_size // (self.micro_batch or self.batch_size)

    @model_validator(mode="after")
    def groups_are_whole(self) -> TrainedAdapter:
        """Refuse a batch size that is not a multiple of the group size, and ranks with unequal numbers of groups."""
        if self.batch_size % (self.micro_batch or self.batch_size):
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}")
        if self.n_groups % self.ranks:
            raise ValueError(
                f"the {self.n_groups} groups of a step (batch_size / micro_batch) cannot be divided equally among "
                f"{self.ranks} ranks"
            )
        if self.ranks > 1 and self.zero == 0:
            raise ValueError("several ranks need DeepSpeed: set `zero` to 1, 2 or 3")
        return self


def _current_spelling(value: Any) -> Any:
    return RELEASED_SPELLINGS.get(value, value)


class RepBendBlock(TrainedAdapter):
    """RepBend (arXiv:2504.01550). The keys have the names of the released code; see docs/paper_index.md."""

    method: Literal["repbend"] = Field(description="representation bending")
    alpha: float = Field(0.5, ge=0, description="weight of `safe_norm`, which keeps safe states (paper: 1/2)")
    beta: float = Field(0.5, ge=0, description="weight of `unsafe_norm`, which moves unsafe states away (paper: alpha)")
    gamma: float = Field(0.1, ge=0, description="weight of `unsafe_cosine`, which aligns unsafe states (paper: beta)")
    epsilon: float = Field(0.3, ge=0, description="weight of `retain_kl`, the KL on retain chats (paper: gamma)")
    eta: float = Field(
        0.0,
        ge=0,
        description="weight of `pair_norm`, the distance between the answers of a pair (released code only)",
    )
    push_limit: float | None = Field(
        None, gt=0, description="largest distance of moved unsafe states; absent: no limit, as published"
    )
    target_layer_start_idx: int = Field(
        20, ge=1, description="first index into hidden_states (0 = embeddings) at which unsafe states are moved"
    )
    layers_window_size: Positive = Field(11, description="number of consecutive indices")
    alpha_mode: Literal["all", "target"] = Field(
        "all", description="indices at which safe states are kept: all, or the target indices"
    )
    loss_mode: Annotated[
        Literal["response_all", "prompt_response", "prompt_all", "prompt_last", "response_R", "response_one"],
        BeforeValidator(_current_spelling),
    ] = Field(
        "response_all",
        description="tokens whose states are compared; `request_…`, as in the released code, means `prompt_…`",
    )
    variant: Literal["released_code", "corrected"] = Field(
        "released_code",
        description="reductions of the released code, or corrected ones (`rebend.repbend.methods.repbend`)",
    )

    @model_validator(mode="after")
    def fits_variant(self) -> RepBendBlock:
        """Refuse dropout with `corrected`, and `eta` with a loss mode that reads only prompts."""
        if self.variant == "corrected" and self.lora_dropout:
            raise ValueError("variant 'corrected' compares states without dropout: set lora_dropout to 0.0")
        if self.eta and self.loss_mode.startswith("prompt_") and self.loss_mode != "prompt_response":
            raise ValueError(f"eta compares answers, but loss_mode '{self.loss_mode}' reads only prompts")
        return self

    def last_target(self) -> int:
        """Return the end of the target window."""
        return self.target_layer_start_idx + self.layers_window_size - 1

    def middle_target(self) -> int:
        """Return the middle of the target window."""
        return self.target_layer_start_idx + (self.layers_window_size - 1) // 2


def _distinct_layers(layers: list[int]) -> list[int]:
    """Return sorted indices; refuse repeated indices and 0, the embeddings, which no training changes."""
    repeated = sorted({layer for layer in layers if layers.count(layer) > 1})
    if repeated:
        raise ValueError(f"lists layers twice: {repeated}")
    if min(layers, default=1) < 1:
        raise ValueError(f"{min(layers)} is not the index of a block's output: the first is 1 (0 is the embeddings)")
    return sorted(layers)


class WholeTextAdapter(TrainedAdapter):
    """The key of methods whose terms read the states of prompts as well as answers."""

    skip_tokens: int = Field(
        0,
        ge=0,
        description="tokens at the beginning of each text whose states no term reads (published: 0). With 1, the first "
        "token is left out: in many models its state is a hundred times as long as the others and dominates distances",
    )


class CircuitBreakersBlock(WholeTextAdapter):
    """Circuit breakers, also called representation rerouting (arXiv:2406.04313, Algorithm 1).

    The defaults are those of the RepBend paper's runs (appendix A.2, layers from its released script). The method's
    paper has 150 steps, layers 10 and 20, and a coefficient of 5 (Mistral) or 10 (Llama 3).
    """

    method: Literal["circuit_breakers"] = Field(description="circuit breakers")
    max_step: Positive = Field(200, description="optimiser steps; the weights of the two terms depend on it")
    lr: float = Field(1.0e-4, gt=0, description="constant learning rate of AdamW")
    coefficient: float = Field(
        15.0,
        gt=0,
        description="the paper's α: sum of the weights of both terms; the share of each term changes from step to step",
    )
    target_layers: Annotated[list[int], AfterValidator(_distinct_layers)] = Field(
        list(range(18, 31)),
        min_length=1,
        description="indices into hidden_states at which unsafe states are rotated away",
    )

    def last_target(self) -> int:
        """Return the last target layer."""
        return max(self.target_layers)


class RmuBlock(WholeTextAdapter):
    """RMU, representation misdirection for unlearning (arXiv:2403.03218, section 4), on adapters.

    Steps, batch, learning rate and `retain_weight` are those of the RepBend paper's runs (appendix A.2), layers and
    `steering` those of the method's released code for a Mistral 7B, which has a `retain_weight` of 1200.
    """

    method: Literal["rmu"] = Field(description="representation misdirection")
    max_step: Positive = Field(150, description="optimiser steps")
    batch_size: Positive = Field(4, description="training items per step")
    lr: float = Field(5.0e-5, gt=0, description="constant learning rate of AdamW")
    transform_layers: list[int] = Field(
        [5, 6, 7],
        description="blocks with LoRA (paper: one full MLP matrix in each); [-1]: all up to the target layer",
    )
    target_layer: int = Field(
        8, ge=1, description="index into hidden_states of the steered states: 8 is the output of block 7"
    )
    steering: float = Field(
        6.5, gt=0, description="the paper's c: length of the random vector that is the target of unsafe states"
    )
    retain_weight: float = Field(3.0, ge=0, description="the paper's α: weight of keeping retain states")

    def last_target(self) -> int:
        """Return the steered layer."""
        return self.target_layer


class NpoBlock(TrainedAdapter):
    """Negative preference optimisation (arXiv:2404.05868, equation 3), with an additional retain loss.

    Steps (for Llama 3; 600 for Mistral) and learning rate are those of the RepBend paper's runs (appendix A.2).
    """

    method: Literal["npo"] = Field(description="negative preference optimisation")
    max_step: Positive = Field(150, description="optimiser steps")
    lr: float = Field(5.0e-5, gt=0, description="constant learning rate of AdamW")
    npo_beta: float = Field(0.1, gt=0, description="the paper's β: inverse temperature")
    retain_weight: float = Field(1.0, ge=0, description="weight of the negative log-likelihood on retain chats")
    kl_weight: float = Field(
        0.0,
        ge=0,
        description="weight of a KL at temperature 2 on safe answers and retain chats, which RepBend's released script "
        "adds (0.1), and its paper and the method's do not",
    )


class WhpBlock(TrainedAdapter):
    """WHP, "Who's Harry Potter" (arXiv:2310.02238), as RepBend's baseline: alternative next tokens by logits alone.

    `reinforced` is an adapter trained on unsafe answers. Its logits and those of the base give the tokens that replace
    those of unsafe answers. The method's paper also replaces names by generic ones, which RepBend's baseline does not.
    Defaults are those of RepBend's released script with a safe set; without one: `whp_alpha: 0.5`, `retain_weight: 0`.
    """

    method: Literal["whp"] = Field(description="Who's Harry Potter")
    reinforced: str = refers("adapters", "an adapter of the same base trained on unsafe answers (`answers: unsafe`)")
    max_step: Positive = Field(625, description="optimiser steps")
    lr: float = Field(5.0e-5, gt=0, description="constant learning rate of AdamW")
    whp_alpha: float = Field(
        5.0, ge=0, description="the paper's α: factor of what the reinforced model adds to a logit, which is subtracted"
    )
    retain_weight: float = Field(
        0.5, ge=0, description="weight of the negative log-likelihood on safe answers and retain chats"
    )


class DpoBlock(TrainedAdapter):
    """Direct preference optimisation (arXiv:2305.18290, equation 7): prefer the safe to the unsafe answer of a pair.

    Learning rate and steps (one epoch of 10,000 pairs) are those of the RepBend paper's run (appendix A.2).
    """

    method: Literal["dpo"] = Field(description="direct preference optimisation")
    max_step: Positive = Field(625, description="optimiser steps")
    lr: float = Field(1.0e-4, gt=0, description="constant learning rate of AdamW")
    dpo_beta: float = Field(
        0.1, gt=0, description="the paper's β: strength of the penalty for a distance from the reference model"
    )
    retain_weight: float = Field(0.0, ge=0, description="weight of the negative log-likelihood on retain chats")


class SftBlock(TrainedAdapter):
    """Supervised fine-tuning on answers and retain chats.

    Learning rate and steps (one epoch of 10,000 items) are those of the RepBend paper's run (appendix A.2).
    """

    method: Literal["sft"] = Field(description="supervised fine-tuning")
    max_step: Positive = Field(625, description="optimiser steps")
    lr: float = Field(5.0e-5, gt=0, description="constant learning rate of AdamW")
    answers: Literal["safe", "unsafe"] = Field(
        "safe", description="label of the answers (single and paired) to train on; `unsafe` is for task arithmetic"
    )
    retain_weight: float = Field(1.0, ge=0, description="weight of the negative log-likelihood on retain chats")


class AdapterPart(Block):
    """One summand of task arithmetic."""

    adapter: str = refers("adapters", "an adapter trained in the graph")
    factor: float = Field(description="factor of the adapter's weight change; a negative factor subtracts it")


class TaskArithmeticBlock(AdapterBlock):
    """Task arithmetic (arXiv:2212.04089): a weighted sum of the weight changes of other adapters."""

    method: Literal["task_arithmetic"] = Field(description="a sum of trained adapters")
    parts: list[AdapterPart] = Field(
        min_length=1,
        description="the adapters, each with the keys `adapter` (name of an adapter trained in the graph) and `factor` "
        "(negative: subtract); rank, scale and modules must be equal. RepBend's run: 0.5 times an adapter "
        "trained on safe answers, -0.1 times an adapter trained on unsafe answers",
    )


class OrthogonalisationBlock(AdapterBlock):
    """Weight orthogonalisation (arXiv:2406.11717, section 2.4): no weight can write the refusal direction any more.

    It is no defence but its opposite: a model that cannot refuse, to compare others with. The direction is the
    difference of mean states at a token of harmful and of harmless prompts. The paper tries all layers and the last
    tokens of the prompt; here layer and token are chosen by the user.
    """

    method: Literal["weight_orthogonalisation"] = Field(description="weight orthogonalisation")
    examples: str = refers(
        "datasets",
        "safety data set of prompts: label `unsafe` for harmful ones, `safe` for harmless ones (answers are not read)",
        kind="safety",
    )
    target_layer: int = Field(ge=1, description="index into hidden_states at which the direction is computed")
    token: int = Field(-1, le=-1, description="token of the prompt, counted from its end: -1 is the last one")
    embeddings: bool = Field(
        True, description="also of the embeddings, as in the paper; a model that shares them with its head needs false"
    )
    max_length: Positive = Field(512, description="longest prompt, tokens; longer ones are left out")

    def last_target(self) -> int:
        """Return the layer of the direction."""
        return self.target_layer


class ReleasedBlock(AdapterBlock):
    """An adapter released by others, in PEFT's layout: exactly one of hub, local."""

    method: Literal["released"] = Field(description="not trained here")
    hub: HubModel | None = Field(None, description="a hub repository at a pinned revision")
    local: str | None = Field(None, description="folder with adapter_config.json and adapter_model.safetensors")

    @model_validator(mode="after")
    def one_source(self) -> ReleasedBlock:
        """Refuse none or several sources."""
        exactly_one(self, "hub", "local")
        return self


ADAPTERS: dict[str, Method] = {
    "repbend": Method(RepBendBlock, "rebend.repbend.methods.repbend:RepBend"),
    "circuit_breakers": Method(CircuitBreakersBlock, "rebend.repbend.methods.circuit_breakers:CircuitBreakers"),
    "rmu": Method(RmuBlock, "rebend.repbend.methods.rmu:Rmu"),
    "npo": Method(NpoBlock, "rebend.repbend.methods.npo:Npo"),
    "whp": Method(WhpBlock, "rebend.repbend.methods.whp:Whp"),
    "dpo": Method(DpoBlock, "rebend.repbend.methods.dpo:Dpo"),
    "sft": Method(SftBlock, "rebend.repbend.methods.sft:Sft"),
    "task_arithmetic": Method(TaskArithmeticBlock, "rebend.repbend.methods.task_arithmetic:combine_adapters"),
    "weight_orthogonalisation": Method(
        OrthogonalisationBlock, "rebend.repbend.methods.weight_orthogonalisation:orthogonalise_weights"
    ),
    "released": Method(ReleasedBlock, "rebend.repbend.methods.released:take_adapter"),
}


def trained_adapter(settings: Mapping[str, Any]) -> TrainedAdapter:
    """Return the block of a trained adapter from its plain settings."""
    block = ADAPTERS[settings["method"]].block.model_validate(settings)
    assert isinstance(block, TrainedAdapter)
    return block
