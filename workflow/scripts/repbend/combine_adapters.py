"""Write the weighted sum of adapters as one adapter."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.config.adapters import TaskArithmeticBlock
    from rebend.repbend.methods.task_arithmetic import combine_adapters

    settings = TaskArithmeticBlock.model_validate(run.settings)
    run.note(**combine_adapters(snakemake.input.adapters, settings, snakemake.output.adapter))
