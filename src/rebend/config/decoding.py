"""Settings of decoding, shared by activations, controls and attacks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rebend.config.base import Block, Positive


class Decoding(Block):
    """How responses are generated."""

    max_new_tokens: Positive = Field(128, description="longest response, tokens")
    temperature: float = Field(0.0, ge=0, description="0 decodes greedily")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling: total probability of the candidate tokens")
    top_k: int = Field(0, ge=0, description="number of candidate tokens; 0 for all")
    batch_size: Positive = Field(32, description="responses that are decoded together, at most")
    batch_tokens: Positive | None = Field(
        None,
        description="most tokens (prompt and longest response) that are decoded together; limits memory where prompts "
        "are long. null: as many as `batch_size` responses have. A longer prompt is decoded alone",
    )
    seed: int = Field(0, description="seed of sampling")
    from_checkpoint: list[Literal["do_sample", "temperature", "top_k", "top_p"]] = Field(
        [],
        description="settings that are those of the checkpoint's `generation_config.json` instead of the ones here. "
        "With `do_sample`, a checkpoint that does not sample decodes greedily. RE-Control's "
        "released code takes all four for value training, and `do_sample` and `top_p` under control",
    )
    stop: list[str] = Field(
        [], description="texts that begin a new user turn; the response ends before the first of them"
    )
