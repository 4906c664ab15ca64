"""Fit a fixed direction to rewarded responses."""

from rebend.provenance import recorded

with recorded(
    "fit_direction",
    snakemake.input,
    snakemake.output,
    snakemake.params,
    snakemake.log,
    snakemake.threads,
    gpus=snakemake.resources.gpu,
) as run:
    from pathlib import Path

    from rebend.config.blocks import DirectionBlock
    from rebend.directions import fit_direction
    from rebend.storage import write_json
    from rebend.streamed_states import open_activations
    from rebend.value_data import Labels

    found = fit_direction(
        open_activations(Path(snakemake.input.manifest).parent, snakemake.input.model, run.settings["dtype"]),
        Labels.read(snakemake.input.rewards),
        DirectionBlock.model_validate(run.settings["direction"]),
    )
    write_json(snakemake.output.direction, found)
    run.note(**{key: value for key, value in found.items() if key != "direction"})
