"""Copy a released adapter from the hub or a local folder, for one base model."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.data.assets import model_folder
    from rebend.repbend.methods.released import take_adapter

    settings = run.settings
    source = settings["local"] or model_folder(snakemake.input.assets[0])
    facts = take_adapter(source, snakemake.input.model, snakemake.output.adapter, settings)
    run.note(source=str(source), **facts)
