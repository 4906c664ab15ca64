"""Write the manifest of an activations folder's shards, and all responses in one file."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.config.value_models import ActivationsBlock
    from rebend.recontrol.value_model.gathering import ShardFiles, gather_activations

    counts = gather_activations(
        [ShardFiles(*pair) for pair in zip(snakemake.input.states, snakemake.input.responses, strict=True)],
        snakemake.output.manifest,
        snakemake.output.responses,
        ActivationsBlock.model_validate(run.settings),
    )
    run.note(**counts)
