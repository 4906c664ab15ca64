"""Train a small reward model on preference pairs, started from the weights of a model."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.config.rewards import TinyReward
    from rebend.io.checkpoints import Checkpoints
    from rebend.io.files import read_parquet
    from rebend.io.schemas import PREFERENCE
    from rebend.models.rewards.tiny import train_tiny_reward_model

    checkpoints = Checkpoints(run.progress)
    rows = read_parquet(snakemake.input.data, PREFERENCE).to_pylist()
    settings = TinyReward.model_validate(run.settings)
    facts = train_tiny_reward_model(snakemake.input.model, rows, settings, snakemake.output.model, checkpoints)
    run.note(**facts)
    checkpoints.clear()
