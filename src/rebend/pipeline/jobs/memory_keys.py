"""Keys of the configuration that lower the peak memory of a stage, the most effective ones first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Key(NamedTuple):
    """A key of a block, as `section` and `path` inside the block, and the values that need less memory."""

    section: str
    path: str
    lower: str = "smaller"


def _decoding(section: str) -> tuple[Key, ...]:
    """Return the keys of the decoding in a block of a section."""
    return tuple(Key(section, f"decoding.{name}") for name in ("batch_size", "batch_tokens", "max_new_tokens"))


_DECODING = _decoding("controls")
_REWARD = (Key("rewards", "batch_size"), Key("rewards", "batch_tokens"), Key("rewards", "max_length"))
_JUDGE = tuple(Key("safety_judges", name) for name in ("batch_size", "batch_tokens", "max_length"))
_ENCODER = (Key("encoders", "batch_size"), Key("encoders", "max_length"))
_SAMPLED = _decoding("datasets")

# Where the settings of a stage hold the keys of a section, and the wildcard with the name of the block.
PLACES: Mapping[str, tuple[str, str]] = {
    "activations": ("activations", "activations"),
    "adapters": ("adapter", "adapter"),
    "attacks": ("attack", "attack"),
    "capabilities": ("block", "capability"),
    "controls": ("control", "control"),
    "datasets": ("block", "dataset"),
    "encoders": ("encoder", "encoder"),
    "models": ("", "model"),
    "rewards": ("reward", "reward"),
    "safety_judges": ("safety_judge", "safety_judge"),
    "value_models": ("value_model", "value_model"),
}
# Where the settings of a stage name a block that no wildcard names: (stage, section) → path in the settings.
NAMED: Mapping[tuple[str, str], str] = {
    ("sample_pairs", "safety_judges"): "block.judge",
    ("sample_chats", "safety_judges"): "block.judge",
    ("choose_strength", "rewards"): "control.choice.reward",
    ("choose_strength", "encoders"): "control.choice.encoder",
}

KEYS: Mapping[str, tuple[Key, ...]] = {
    "train_tiny_model": (Key("models", "tiny.batch_size"), Key("models", "tiny.context")),
    "train_reward_model": (
        Key("rewards", "trained.micro_batch"),
        Key("rewards", "trained.gradient_checkpointing", "true"),
        Key("rewards", "trained.max_length"),
        Key("rewards", "tiny.batch_size"),
    ),
    "train_adapter": (
        Key("adapters", "micro_batch"),
        Key("adapters", "gradient_checkpointing", "true"),
        Key("adapters", "max_length"),
        Key("adapters", "base_bits", "8 or 4, with a GPU"),
    ),
    "project_hidden_states": (Key("adapters", "max_length"),),
    "extract_activations": (
        *_decoding("activations"),
        Key("activations", "max_prompt_tokens"),
        Key("activations", "prompts_per_chunk"),
    ),
    "train_value_model": (Key("value_models", "batch_size"), Key("value_models", "hidden_size")),
    "label_rewards": _REWARD,
    "score_reward": _REWARD,
    "score_references": _REWARD,
    "choose_strength": (*_DECODING, *_REWARD, *_ENCODER),
    "decode": _DECODING,
    "attack": (Key("attacks", "batch_size"), Key("attacks", "search_width"), *_DECODING),
    "judge_safety": _JUDGE,
    "sample_pairs": (*_SAMPLED, *_JUDGE),
    "sample_chats": (*_SAMPLED, *_JUDGE),
    "embed_prompts": _ENCODER,
    "score_coherence": _ENCODER,
    "score_capability": (
        Key("capabilities", "batch_size"),
        Key("capabilities", "few_shot"),
        Key("capabilities", "max_new_tokens"),
    ),
}
