"""Take over an adapter released by others, from the hub or a local folder, for one base model."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.data.assets import model_folder
    from rebend.repbend.methods.released import take_adapter

    wanted = run.settings
    source = wanted["local"] or model_folder(snakemake.input.assets[0])
    facts = take_adapter(source, snakemake.input.model, snakemake.output.adapter, wanted)
    run.note(source=str(source), **facts)
