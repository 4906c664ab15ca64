"""Give every sampled response its reward."""

from rebend.provenance import recorded

with recorded(
    "label_rewards",
    snakemake.input,
    snakemake.output,
    snakemake.params,
    snakemake.log,
    snakemake.threads,
    gpus=snakemake.resources.gpu,
) as run:
    from rebend.config.rewards import RewardBlock
    from rebend.parts import Parts
    from rebend.reward_labels import label_rewards
    from rebend.rewards import load_reward

    reward = RewardBlock.model_validate(run.settings["reward"])
    model = load_reward(snakemake.input.reward, reward, asking=snakemake.resources.asking)
    parts = Parts(run.progress)
    run.note(**label_rewards(model, snakemake.input.data, snakemake.input.responses, snakemake.output.rewards, parts))
    parts.clear()
