"""Blocks of the section `values` whose network is not trained here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rebend.config.base import Block, Positive


class ReleasedValueModelBlock(Block):
    """A value network that somebody else trained on a model's final states, e.g. with RE-Control's released code.

    Its file does not say which model that was. It must have the model's hidden size; more cannot be checked.
    """

    method: Literal["released"] = Field(description="a value network trained by others")
    local: str = Field(
        description="file of its weights, `.pth` or `.safetensors`; a relative path is looked up in the `data` folder"
    )
    n_layers: Literal[2, 3] = Field(
        3, description="linear layers in the file: three are `fc1`, `fc2`, `fc3`, two are `fc1`, `fc3`"
    )
    hidden_size: Positive = Field(4096, description="width of the layers between")
