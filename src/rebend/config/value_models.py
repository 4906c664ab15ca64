"""Blocks of the sections `activations`, `value_models` and `directions`: hidden states, value networks, directions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rebend.config.base import Block, Positive, Rate, refers
from rebend.config.decoding import Decoding


class ActivationsBlock(Block):
    """Responses sampled from a model, with the hidden state that every token, and the end token, was sampled from."""

    dataset: str = refers("datasets", "prompts data set", kind="prompts")
    samples_per_prompt: Positive = Field(1, description="responses per prompt (M)")
    decoding: Decoding = Field(Decoding(), description="settings of the sampling")
    layer: Literal["final"] | Annotated[int, Field(ge=0)] = Field(
        "final",
        description="which hidden state: `final` is the state after the final norm, which controls edit; a number is "
        "the output of this decoder block",
    )
    states: Literal["stored", "streamed"] = Field(
        "stored",
        description="`streamed` writes only token ids; the training of a value network then computes the states again, "
        "with one pass per batch",
    )
    max_bytes: Positive | None = Field(
        None,
        description="limit of the stored states, bytes: it allows as many prompts as fit if every response has "
        "`max_new_tokens`, chosen by the lowest SHA-256 of `row_id`; all prompts if absent",
    )
    shards: Positive = Field(
        1, description="number of jobs, and of Parquet files, for the prompts; no row depends on it"
    )
    prompts_per_chunk: Positive = Field(
        1024,
        description="prompts per chunk, sorted by length; a killed job resumes after its last complete chunk",
    )
    max_prompt_tokens: Positive = Field(
        512, description="longest prompt, tokens; longer prompts are left out and counted"
    )

    @model_validator(mode="after")
    def samples_differ(self) -> ActivationsBlock:
        """Refuse several greedy responses per prompt, since they would be equal."""
        if self.samples_per_prompt > 1 and self.decoding.temperature == 0:
            raise ValueError(
                "samples_per_prompt above 1 needs decoding.temperature above 0; greedy responses are equal"
            )
        return self

    @model_validator(mode="after")
    def budget_is_of_stored_states(self) -> ActivationsBlock:
        """Refuse a limit of bytes if no states are written."""
        if self.max_bytes is not None and self.states == "streamed":
            raise ValueError("max_bytes limits stored states; with `states: streamed` none are written")
        return self


class ValueModelBlock(Block):
    """A value network on hidden states (arXiv:2406.05954, section 4)."""

    method: Literal["trained"] = Field("trained", description="trained in the graph; the default")
    activations: str = refers("activations", "activations block to train on")
    reward: str = refers("rewards", "reward block that labels the responses")
    variant: Literal["released_code", "corrected"] = Field(
        "corrected",
        description="`corrected` is the paper's objective: the reward at the last token, no gradient through the "
        "target; `released_code` is that of the released code: the reward at the first token, gradient through "
        "both neighbours, the last epoch",
    )
    end_state: Literal["kept", "left_out"] = Field(
        "kept",
        description="the state that the end token was sampled from, on which control acts too. `corrected` keeps it; "
        "the default of `released_code` is `left_out`, as in the released code for Llama 3 and Falcon; for Vicuna it "
        "has it `kept`",
    )
    n_layers: Literal[2, 3] = Field(2, description="linear layers, with ReLU between them")
    hidden_size: Positive = Field(4096, description="width of the hidden layers")
    lr: float = Field(1.0e-4, gt=0, description="learning rate of Adam")
    batch_size: Positive = Field(512, description="responses per step")
    epochs: Positive = Field(100, description="passes over the training responses")
    td_lambda: Rate = Field(
        0.0,
        description="λ of the λ-return, the target of V: 0 is the paper's V(next), 1 the final reward (Monte Carlo)",
    )
    validation_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the prompts held out for choosing the epoch and for the audit; the default of "
        "`released_code` is 0: it trains on all prompts and uses the last epoch",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="type of the network, of the states and of Adam while training; the released code has bfloat16, "
        "in which small updates are lost",
    )
    seed: int = Field(0, description="seed of weights, split and batches")

    @model_validator(mode="before")
    @classmethod
    def defaults_of_the_variant(cls, values: Any) -> Any:
        """Fill in the defaults of `released_code`: no end state, no held-out prompts."""
        if isinstance(values, dict) and values.get("variant") == "released_code":
            return {"end_state": "left_out", "validation_share": 0.0, **values}
        return values

    @model_validator(mode="after")
    def corrected_chooses_on_held_out_prompts(self) -> ValueModelBlock:
        """Refuse to choose the epoch on the prompts that were trained on."""
        if self.variant == "corrected" and not self.validation_share:
            raise ValueError(
                "`validation_share: 0` holds out no prompt to choose the epoch on; only `variant: released_code`, "
                "which uses the last epoch, may have it"
            )
        return self

    @model_validator(mode="after")
    def released_code_has_no_td_lambda(self) -> ValueModelBlock:
        """Refuse a λ with the released code's objective, which has no λ-returns."""
        if self.variant == "released_code" and self.td_lambda != 0:
            raise ValueError("`variant: released_code` has no λ-returns; leave `td_lambda` at 0")
        return self


class ReleasedValueModelBlock(Block):
    """A value network trained by others on a model's final states, e.g. with RE-Control's released code.

    The file does not name the model, so only the hidden size can be checked.
    """

    method: Literal["released"] = Field(description="a value network trained by others")
    local: str = Field(
        description="file of the weights, `.pth` or `.safetensors`; relative paths start in the `data` folder"
    )
    n_layers: Literal[2, 3] = Field(3, description="linear layers in the file: `fc1`, `fc2`, `fc3`, or `fc1`, `fc3`")
    hidden_size: Positive = Field(4096, description="width of the hidden layers")


class DirectionBlock(Block):
    """A fixed direction on hidden states, of length 1, for static representation editing."""

    activations: str = refers("activations", "activations block for the fit")
    reward: str = refers("rewards", "reward block that labels the responses")
    fit: Literal["difference", "regression"] = Field(
        "difference",
        description="`difference`: from the mean state of low-reward responses to that of high-reward ones; "
        "`regression`: weights of a linear regression of the reward on the state after the prompt, as in RE-Control's "
        "baseline",
    )
    share: float = Field(
        0.5,
        gt=0,
        le=0.5,
        description="share of responses with the lowest rewards, and with the highest, for `difference`",
    )
