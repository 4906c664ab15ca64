"""Load the guidance reward model of a control."""

from __future__ import annotations

from rebend.config.rewards import RewardBlock
from rebend.models.rewards.reward import Reward, load_reward
from rebend.recontrol.resources import ControlResources


def guidance_reward(method: str, resources: ControlResources) -> Reward:
    """Return the reward model that guides the control, on the policy's device or behind its address.

    Raises `ConfigError` if the control has none.
    """

    def load(path: str) -> Reward:
        settings = RewardBlock.model_validate(resources.guidance_settings)
        return load_reward(path, settings, resources.policy.device, resources.endpoint_options)

    return resources.get("guidance_reward", method, load)
