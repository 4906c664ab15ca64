"""Add up bends, each times a factor, to one bend."""

from rebend.pipeline.jobs.job import recorded

with recorded(
    "combine_bends", snakemake.input, snakemake.output, snakemake.params, snakemake.log, snakemake.threads
) as run:
    from rebend.config.adapters import TaskArithmeticBlock
    from rebend.repbend.methods.task_arithmetic import combine_bends

    settings = TaskArithmeticBlock.model_validate(run.settings)
    run.note(**combine_bends(snakemake.input.bends, settings, snakemake.output.bend))
