"""Link a checkpoint from the hub or a local folder, and check that it is complete."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from pathlib import Path

    from rebend.data.assets import model_folder
    from rebend.io.files import whole_directory
    from rebend.models.chat_template import TemplateRules
    from rebend.models.loading import check_checkpoint, link_checkpoint, plain_checkpoint, stamp

    settings = run.settings
    rules = TemplateRules(**settings["template"])
    source = settings["local"] or model_folder(snakemake.input.assets[0])
    with whole_directory(snakemake.output.model) as folder:
        link_checkpoint(source, folder, chat_template=settings["chat_template"], rules=rules, hub=settings["hub"])
        facts = plain_checkpoint(folder)
        facts |= check_checkpoint(folder, n_layers=settings["n_layers"], chat=settings["chat"], rules=rules)
        revision = "" if settings["local"] else Path(source).name
        run.note(fingerprint=stamp(folder, revision), source=str(source), revision=revision, **facts)
