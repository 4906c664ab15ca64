"""Fit a fixed direction to rewarded responses."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from pathlib import Path

    from rebend.config.value_models import DirectionBlock
    from rebend.io.files import write_json
    from rebend.recontrol.value_model.direction_fit import fit_direction
    from rebend.recontrol.value_model.labels import Labels
    from rebend.recontrol.value_model.streamed_activations import open_activations

    result = fit_direction(
        open_activations(Path(snakemake.input.manifest).parent, snakemake.input.model, run.settings["dtype"]),
        Labels.read(snakemake.input.rewards),
        DirectionBlock.model_validate(run.settings["direction"]),
    )
    write_json(snakemake.output.direction, result)
    run.note(**{key: value for key, value in result.items() if key != "direction"})
