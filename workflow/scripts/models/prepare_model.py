"""Take over a checkpoint from the hub or a local folder, after checking that it is whole."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from pathlib import Path

    from rebend.data.assets import model_folder
    from rebend.io.files import whole_directory
    from rebend.models.loading import check_checkpoint, link_checkpoint, stamp

    wanted = run.settings
    source = wanted["local"] or model_folder(snakemake.input.assets[0])
    with whole_directory(snakemake.output.model) as folder:
        link_checkpoint(source, folder, chat_template=wanted["chat_template"], hub=wanted["hub"])
        check_checkpoint(folder, n_layers=wanted["n_layers"], chat=wanted["chat"])
        revision = "" if wanted["local"] else Path(source).name
        run.note(fingerprint=stamp(folder, revision), source=str(source), revision=revision)
