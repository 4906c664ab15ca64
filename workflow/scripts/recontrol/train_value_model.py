"""Train a value network on hidden states and rewards."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from pathlib import Path

    from rebend.config.value_models import ValueModelBlock
    from rebend.io.checkpoints import Checkpoints
    from rebend.io.files import whole_directory
    from rebend.models.loading import best_device
    from rebend.recontrol.value_model.labels import Labels
    from rebend.recontrol.value_model.streamed_activations import open_activations
    from rebend.recontrol.value_model.train import train_value_model

    checkpoints = Checkpoints(run.progress)
    with whole_directory(snakemake.output.value_model) as folder:
        facts = train_value_model(
            open_activations(Path(snakemake.input.manifest).parent, snakemake.input.model, run.settings["dtype"]),
            Labels.read(snakemake.input.rewards),
            ValueModelBlock.model_validate(run.settings["value_model"]),
            folder,
            checkpoints,
            best_device(),
        )
    run.note(**facts)
    checkpoints.clear()
