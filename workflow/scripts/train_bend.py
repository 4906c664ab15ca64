"""Train an adapter that bends a model, on one or several ranks."""

from rebend.pipeline.jobs.job import recorded

with recorded(
    "train_bend",
    snakemake.input,
    snakemake.output,
    snakemake.params,
    snakemake.log,
    snakemake.threads,
    gpus=snakemake.resources.gpu,
) as run:
    import shutil

    from rebend.io.files import read_json
    from rebend.repbend.launch import BendJob, run_bend_job

    config, ranks = snakemake.resources.zero_config, snakemake.resources.ranks
    job = BendJob(
        base=snakemake.input.model,
        samples=snakemake.input.samples,
        pairs=snakemake.input.pairs,
        retain=snakemake.input.retain,
        out=snakemake.output.bend,
        progress=str(run.progress),
        dtype=run.settings["dtype"],
        bend=run.settings["bend"],
        ranks=ranks,
        zero=read_json(config) if config else None,
    )
    run.note(ranks=ranks, **run_bend_job(job, snakemake.threads))
    shutil.rmtree(run.progress, ignore_errors=True)
