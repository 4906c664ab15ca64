"""Merge an adapter into its base model, as a complete checkpoint."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.repbend.merge.merge import merge_adapter

    facts = merge_adapter(snakemake.input.model, snakemake.input.adapter, snakemake.output.model, run.settings["dtype"])
    run.note(**facts)
