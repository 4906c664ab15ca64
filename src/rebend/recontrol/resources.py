"""The resources of a control besides the policy: trained networks, directions and reward models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rebend.errors import ConfigError
from rebend.models.loading import Policy

T = TypeVar("T")

_TITLES = {"value_model": "value network", "direction": "direction", "guidance_reward": "guidance reward model"}


@dataclass(frozen=True)
class ControlResources:
    """The paths of a control's resources. A method loads the resources it needs, each once.

    The loaders are in other modules, so that a method's code version covers only the loaders it uses.
    `guidance_settings` is the block of the guidance reward model, and `endpoint_options` the result of
    `rebend.config.rewards.endpoint_options`, for a reward model behind an address.
    """

    policy: Policy
    inputs: Mapping[str, Any] = field(default_factory=dict)  # paths of `value_model`, `direction`, `guidance_reward`
    guidance_settings: Mapping[str, Any] | None = None
    endpoint_options: str = "{}"
    loaded: dict[str, Any] = field(default_factory=dict)  # by the same names

    def get(self, name: str, method: str, load: Callable[[str], T]) -> T:
        """Return the resource `name`, which `load` loads from its path at the first call.

        Raises `ConfigError` if the job has no path for it.
        """
        if name not in self.loaded:
            path = self.inputs.get(name)
            if not path:
                raise ConfigError(f"control '{method}' lacks its {_TITLES[name]}")
            self.loaded[name] = load(path)
        resource: T = self.loaded[name]
        return resource
