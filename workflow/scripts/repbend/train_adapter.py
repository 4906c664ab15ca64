"""Train an adapter, on one or several ranks."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    import shutil

    from rebend.io.files import read_json
    from rebend.repbend.launch import TrainingJob, run_training_job

    config, ranks = snakemake.resources.zero_config, snakemake.resources.ranks
    training = TrainingJob(
        base=snakemake.input.model,
        examples=snakemake.input.examples,
        paired_examples=snakemake.input.paired_examples,
        retain_chats=snakemake.input.retain_chats,
        out=snakemake.output.adapter,
        progress=str(run.progress),
        dtype=run.settings["dtype"],
        adapter=run.settings["adapter"],
        ranks=ranks,
        zero=read_json(config) if config else None,
        reinforced=next(iter(snakemake.input.get("reinforced") or []), None),
    )
    run.note(ranks=ranks, **run_training_job(training, snakemake.threads, "rebend.pipeline.jobs.rank"))
    shutil.rmtree(run.progress, ignore_errors=True)
