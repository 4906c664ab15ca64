"""Sample responses to one shard of the prompts and store a hidden state of every generated token."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.config.value_models import ActivationsBlock
    from rebend.io.chunks import ChunkStore
    from rebend.models.loading import load_policy
    from rebend.recontrol.value_model.extraction import extract_activations
    from rebend.recontrol.value_model.gathering import ShardFiles

    counts = extract_activations(
        load_policy(snakemake.input.model, run.settings["dtype"]),
        snakemake.input.data,
        ActivationsBlock.model_validate(run.settings["activations"]),
        run.settings["shard"],
        ShardFiles(snakemake.output.states, snakemake.output.responses),
        run.progress,
    )
    run.note(**counts)
    ChunkStore(run.progress).clear()
