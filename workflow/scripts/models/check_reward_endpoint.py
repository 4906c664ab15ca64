"""Send one request to a reward endpoint, so that an unreachable one fails before other jobs."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.config.rewards import RewardBlock
    from rebend.io.files import whole_directory, write_json
    from rebend.models.rewards.endpoint import probe

    reward = RewardBlock.model_validate(run.settings["reward"])
    run.note(reward_of_a_greeting=probe(reward, snakemake.resources.endpoint_options))
    with whole_directory(snakemake.output.model) as folder:
        write_json(folder / "endpoint.json", run.settings["reward"]["http"])
