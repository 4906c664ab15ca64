"""Merge a bend into its base model, as a complete checkpoint."""

from rebend.provenance import recorded

with recorded(
    "merge_bend",
    snakemake.input,
    snakemake.output,
    snakemake.params,
    snakemake.log,
    snakemake.threads,
    gpus=snakemake.resources.gpu,
) as run:
    from rebend.merging import merge_bend

    facts = merge_bend(snakemake.input.model, snakemake.input.bend, snakemake.output.model, run.settings["dtype"])
    run.note(**facts)
