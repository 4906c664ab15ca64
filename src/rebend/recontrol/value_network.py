"""Load the value network of a control."""

from __future__ import annotations

from rebend.recontrol.resources import ControlResources
from rebend.recontrol.value_model.network import ValueNetwork, load_value


def value_network(method: str, resources: ControlResources) -> ValueNetwork:
    """Return the value network on the policy's device.

    Raises `ConfigError` if the control has none, and `ModelError` if it was trained on another model.
    """
    policy = resources.policy

    def load(path: str) -> ValueNetwork:
        return load_value(path, policy.fingerprint, policy.hidden_size, policy.device)

    return resources.get("value_model", method, load)
