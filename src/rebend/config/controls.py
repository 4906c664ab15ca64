"""Blocks of the section `controls`: methods that act on prompt, state, next token or response while decoding."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from rebend.config.base import Block, Method, NamedBlock, Positive, Rate, refers
from rebend.config.decoding import Decoding

Chosen = Literal["chosen"]


class Choice(Block):
    """The choice of a strength on validation prompts, which are never reported."""

    dataset: str = refers("datasets", "validation prompts data set", kind="prompts")
    grid: list[float] = Field(min_length=1, description="step sizes, or weights, to try")
    steps: list[Positive] = Field(
        [], description="numbers of steps to try with each step size (for controls with `n_steps: chosen`)"
    )
    reward: str = refers("rewards", "reward block of the objective")
    encoder: str = refers("encoders", "encoder block of the objective")
    objective: Literal["guarded", "published"] = Field(
        "guarded",
        description="`guarded`: the highest mean reward among the strengths that keep diversity and coherence; "
        "`published`: the highest sum of coherence, diversity and mean reward, without scaling (RE-Control, appendix)",
    )
    min_diversity: Rate = Field(
        0.9, description="guarded: least ratio of diversity, and of coherence, to their values without control"
    )


class ControlBlock(NamedBlock):
    """The keys of every control."""

    method: str = Field(description="the method")
    decoding: Decoding = Field(Decoding(), description="settings of decoding")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None,
        description="type of the model while decoding; that of the model's block if absent. RE-Control's released code "
        "decodes in float16",
    )
    reward_stop: list[str] = Field(
        [],
        description="texts at which a response is cut for its reward alone, in capitals or not; the response itself, "
        "and what else is measured on it, stay whole. As in RE-Control's released code, with `decoding.stop` empty",
    )

    def facts(self) -> dict[str, float | int | str | None]:
        """Return the strength of the control for the run record."""
        return {key: getattr(self, key) for key in ("step_size", "n_steps", "weight", "n") if hasattr(self, key)}


class NoControlBlock(ControlBlock):
    """The model without control."""

    method: Literal["none"] = Field(description="no control")


class PromptingBlock(ControlBlock):
    """An instruction in front of the user's last message."""

    method: Literal["prompting"] = Field(description="an instruction")
    instruction: str = Field(description="instruction before the user's last message")


class TunedBlock(ControlBlock):
    """A control with a strength: a number, or chosen on validation prompts (for this or for another control)."""

    strength: ClassVar[str] = "step_size"  # the key of the strength

    choice: Choice | None = Field(None, description="settings for choosing the strength")
    strength_of: str | None = refers(
        "controls",
        "use the strength chosen for this control, e.g. for a random step as long as that of `value`",
        default=None,
    )

    @property
    def is_chosen(self) -> bool:
        """Whether the strength comes from a result of `choose_strength`."""
        return getattr(self, self.strength) == "chosen"

    @model_validator(mode="after")
    def is_chosen_in_one_way(self) -> TunedBlock:
        """Refuse a chosen strength without exactly one of `choice` and `strength_of`, and a number with one of them."""
        if ((self.choice is not None) + (self.strength_of is not None)) != self.is_chosen:
            key = self.strength
            raise ValueError(f"`{key}: chosen` needs exactly one of `choice`, `strength_of`; a number needs neither")
        steps = self.choice.steps if self.choice else []
        if bool(steps) != (self.choice is not None and getattr(self, "n_steps", None) == "chosen"):
            raise ValueError(
                "`n_steps: chosen` needs `choice.steps`; a number of steps, or a control without steps, needs none"
            )
        return self


class AscentBlock(TunedBlock):
    """n steps h ← h + α ∇V(h) of gradient ascent on a value network, at each token (arXiv:2406.05954)."""

    value_model: str = refers("value_models", "value model block")
    step_size: float | Chosen = Field(
        description="α, factor of the gradient in one step; `chosen`: on validation prompts"
    )
    n_steps: Positive | Chosen = Field(description="n, steps per token; `chosen`: together with the step size")
    variant: Literal["released_code", "corrected"] = Field(
        "corrected",
        description="`corrected`: a move longer than ten lengths of the state is cut there, and counted; state and "
        "network are float32. `released_code`: no bound; state and network have the model's type, so that in half "
        "precision each step is rounded; and all prompt tokens are edited too, which changes no response",
    )

    @model_validator(mode="after")
    def steps_go_with_their_size(self) -> AscentBlock:
        """Refuse a chosen number of steps without a chosen step size."""
        if self.n_steps == "chosen" and not self.is_chosen:
            raise ValueError("`n_steps: chosen` needs `step_size: chosen`, because both are chosen together")
        return self


class ValueControlBlock(AscentBlock):
    """RE-Control: gradient ascent of the state on the value network."""

    method: Literal["value"] = Field(description="RE-Control")


class ValuePromptingBlock(AscentBlock):
    """RE-Control with an instruction."""

    method: Literal["value_prompting"] = Field(description="RE-Control with an instruction")
    instruction: str = Field(description="instruction before the user's last message")


class RandomControlBlock(AscentBlock):
    """A step in a random direction, as long as RE-Control's step from the same state."""

    method: Literal["random"] = Field(description="a step in a random direction, as long as the ascent")


class StaticControlBlock(TunedBlock):
    """Static representation editing: add the same direction to the state at every token."""

    method: Literal["static"] = Field(description="a fixed direction")
    direction: str = refers("directions", "direction block")
    step_size: float | Chosen = Field(description="length of the added vector; `chosen`: on validation prompts")


class SearchBlock(TunedBlock):
    """Token search: re-weight the likeliest next tokens by the predicted reward of the response."""

    strength: ClassVar[str] = "weight"

    weight: float | Chosen = Field(
        description="factor of a candidate's score in the sum with its log-probability; `chosen`: on validation prompts"
    )
    top_k: Positive = Field(8, description="candidates per token; other tokens are not sampled")


class ControlledDecodingBlock(SearchBlock):
    """Controlled decoding as in RE-Control's table (CD): a reward model scores the response with each candidate.

    The reward model must have the policy's vocabulary, as in the paper.
    """

    method: Literal["controlled_decoding"] = Field(description="token search by a reward model")
    reward: str = refers("rewards", "reward block that scores the candidates")


class PrefixSearchBlock(SearchBlock):
    """Controlled decoding with a prefix scorer (arXiv:2310.17022): the value network scores the next states."""

    value_model: str = refers("value_models", "value model block")


class CdPrefixBlock(PrefixSearchBlock):
    """The prefix variant of controlled decoding, as in RE-Control's table (CD prefix)."""

    method: Literal["cd_prefix"] = Field(description="token search by the value network")


class CdPrefixPromptingBlock(PrefixSearchBlock):
    """The prefix variant of controlled decoding with an instruction."""

    method: Literal["cd_prefix_prompting"] = Field(description="token search by the value network, with an instruction")
    instruction: str = Field(description="instruction before the user's last message")


class BestOfNBlock(ControlBlock):
    """Sample several responses, and keep the one with the highest reward."""

    method: Literal["best_of_n"] = Field(description="the best of several responses")
    n: int = Field(ge=2, description="responses per prompt")
    reward: str = refers("rewards", "reward block that chooses the response")

    @model_validator(mode="after")
    def samples_differ(self) -> BestOfNBlock:
        """Refuse greedy decoding, since all responses would be equal."""
        if self.decoding.temperature == 0:
            raise ValueError(
                "the best of several responses needs decoding.temperature above 0; greedy responses are equal"
            )
        return self


CONTROLS: dict[str, Method] = {
    "none": Method(NoControlBlock, "rebend.recontrol.methods.none:make"),
    "prompting": Method(PromptingBlock, "rebend.recontrol.methods.prompting:make"),
    "value": Method(ValueControlBlock, "rebend.recontrol.methods.value_ascent:make"),
    "value_prompting": Method(ValuePromptingBlock, "rebend.recontrol.methods.value_prompting:make"),
    "random": Method(RandomControlBlock, "rebend.recontrol.methods.random_direction:make"),
    "static": Method(StaticControlBlock, "rebend.recontrol.methods.static:make"),
    "controlled_decoding": Method(ControlledDecodingBlock, "rebend.recontrol.methods.controlled_decoding:make"),
    "cd_prefix": Method(CdPrefixBlock, "rebend.recontrol.methods.cd_prefix:make"),
    "cd_prefix_prompting": Method(CdPrefixPromptingBlock, "rebend.recontrol.methods.cd_prefix_prompting:make"),
    "best_of_n": Method(BestOfNBlock, "rebend.recontrol.methods.best_of_n:make"),
}
# Methods that choose among complete responses; not allowed under attacks. An attack succeeds if one of its `attempts`
# does: with best of n each attempt would be n attempts, and the ASR would depend on the reward model.
PROMPTS_ONLY = (BestOfNBlock,)
