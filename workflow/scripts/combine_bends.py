"""Add up bends, each times a factor, to one bend."""

from rebend.provenance import recorded

with recorded(
    "combine_bends", snakemake.input, snakemake.output, snakemake.params, snakemake.log, snakemake.threads
) as run:
    from rebend.config.bends import TaskArithmeticBlock
    from rebend.task_vectors import combine_bends

    settings = TaskArithmeticBlock.model_validate(run.settings)
    run.note(**combine_bends(snakemake.input.bends, settings, snakemake.output.bend))
