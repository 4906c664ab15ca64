"""Take over an adapter released by others, from the hub or a local folder, for one base model."""

from rebend.provenance import recorded

with recorded(
    "prepare_adapter", snakemake.input, snakemake.output, snakemake.params, snakemake.log, snakemake.threads
) as run:
    from rebend.adapters import take_adapter
    from rebend.config.sources import HubModel
    from rebend.hub import fetch_model

    wanted = run.settings
    source = wanted["local"] or fetch_model(HubModel.model_validate(wanted["hub"]))
    facts = take_adapter(source, snakemake.input.model, snakemake.output.bend, wanted)
    run.note(source=str(source), **facts)
