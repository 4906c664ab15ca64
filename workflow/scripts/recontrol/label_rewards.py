"""Score every sampled response with a reward model."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.config.rewards import RewardBlock
    from rebend.io.chunks import ChunkStore
    from rebend.models.rewards.reward import load_reward
    from rebend.recontrol.value_model.reward_labels import label_rewards

    reward = RewardBlock.model_validate(run.settings["reward"])
    model = load_reward(snakemake.input.reward, reward, endpoint_options=snakemake.resources.endpoint_options)
    parts = ChunkStore(run.progress)
    run.note(**label_rewards(model, snakemake.input.data, snakemake.input.responses, snakemake.output.rewards, parts))
    parts.clear()
