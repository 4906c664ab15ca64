"""Write the adapter that removes the refusal direction from a model's weights."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.config.adapters import OrthogonalisationBlock
    from rebend.io.files import read_parquet
    from rebend.io.schemas import SAFETY
    from rebend.repbend.methods.weight_orthogonalisation import orthogonalise_weights

    settings = OrthogonalisationBlock.model_validate(run.settings["adapter"])
    examples = read_parquet(snakemake.input.examples, SAFETY)
    run.note(
        **orthogonalise_weights(
            snakemake.input.model, run.settings["dtype"], settings, examples, snakemake.output.adapter
        )
    )
