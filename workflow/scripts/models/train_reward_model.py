"""Train a reward model on preference pairs, started from the weights of a model."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.config.rewards import TinyReward, TrainedReward
    from rebend.io.checkpoints import Checkpoints
    from rebend.io.files import read_parquet
    from rebend.io.schemas import PREFERENCE
    from rebend.models.rewards.tiny import as_trained
    from rebend.models.rewards.train import train_reward_model

    checkpoints = Checkpoints(run.progress)
    if run.settings["kind"] == "tiny":
        settings = as_trained(TinyReward.model_validate(run.settings["reward"]))
    else:
        settings = TrainedReward.model_validate(run.settings["reward"])
    rows = read_parquet(snakemake.input.data, PREFERENCE).to_pylist()
    others = next(iter(snakemake.input.get("held_out") or []), None)
    held_out = read_parquet(others, PREFERENCE).to_pylist() if others else None
    facts = train_reward_model(snakemake.input.model, rows, settings, snakemake.output.model, checkpoints, held_out)
    if facts["held_out_at_chance"]:
        print("WARNING: the held-out accuracy of this reward model is not above chance (0.5)", flush=True)
    run.note(**facts)
    checkpoints.clear()
