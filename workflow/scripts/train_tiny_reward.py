"""Train a small reward model on preference pairs, from a model's weights."""

from rebend.provenance import recorded

with recorded(
    "train_tiny_reward", snakemake.input, snakemake.output, snakemake.params, snakemake.log, snakemake.threads
) as run:
    from rebend.checkpoints import Checkpoints
    from rebend.config.rewards import TinyReward
    from rebend.schemas import PREFERENCE
    from rebend.storage import read_parquet
    from rebend.tiny_rewards import train_tiny_reward

    checkpoints = Checkpoints(run.progress)
    rows = read_parquet(snakemake.input.data, PREFERENCE).to_pylist()
    settings = TinyReward.model_validate(run.settings)
    facts = train_tiny_reward(snakemake.input.model, rows, settings, snakemake.output.model, checkpoints)
    run.note(**facts)
    checkpoints.clear()
