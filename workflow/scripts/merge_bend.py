"""Merge a bend into its base model, as a complete checkpoint."""

from rebend.pipeline.jobs.job import recorded

with recorded(
    "merge_bend",
    snakemake.input,
    snakemake.output,
    snakemake.params,
    snakemake.log,
    snakemake.threads,
    gpus=snakemake.resources.gpu,
) as run:
    from rebend.repbend.merge.merge import merge_bend

    facts = merge_bend(snakemake.input.model, snakemake.input.bend, snakemake.output.model, run.settings["dtype"])
    run.note(**facts)
