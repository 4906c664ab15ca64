"""The settings `tiny` of a reward model, as those of the training of which they are a special case."""

from __future__ import annotations

from rebend.config.rewards import TinyReward, TrainedReward


def as_trained(settings: TinyReward) -> TrainedReward:
    """Return the settings of `rebend.models.rewards.train` for a block `tiny`.

    All weights are trained, in one forward pass per step, up to the model's context, with a head drawn at random, and a
    tenth of the pairs is held out.
    """
    return TrainedReward(
        model=settings.model,
        dataset=settings.dataset,
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=settings.lr,
        seed=settings.seed,
        lora_r=0,
        max_length=None,
        head_start="drawn",
    )
