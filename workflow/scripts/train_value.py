"""Train a value network on hidden states and rewards."""

from rebend.pipeline.jobs.job import recorded

with recorded(
    "train_value",
    snakemake.input,
    snakemake.output,
    snakemake.params,
    snakemake.log,
    snakemake.threads,
    gpus=snakemake.resources.gpu,
) as run:
    from pathlib import Path

    from rebend.config.blocks import ValueBlock
    from rebend.io.checkpoints import Checkpoints
    from rebend.io.files import whole_directory
    from rebend.models.loading import best_device
    from rebend.recontrol.value_model.examples import Labels
    from rebend.recontrol.value_model.streamed_activations import open_activations
    from rebend.recontrol.value_model.train import train_value

    checkpoints = Checkpoints(run.progress)
    with whole_directory(snakemake.output.value) as folder:
        facts = train_value(
            open_activations(Path(snakemake.input.manifest).parent, snakemake.input.model, run.settings["dtype"]),
            Labels.read(snakemake.input.rewards),
            ValueBlock.model_validate(run.settings["value"]),
            folder,
            checkpoints,
            best_device(),
        )
    run.note(**facts)
    checkpoints.clear()
