"""Link a checkpoint of the hub or of a local folder, or convert one in a GGUF file; check that it is complete."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from pathlib import Path

    from rebend.data.assets import gguf_file, model_folder
    from rebend.io.files import read_json, whole_directory
    from rebend.models.chat_template import TemplateRules
    from rebend.models.formats.gguf_file import convert_gguf
    from rebend.models.loading import check_checkpoint, link_checkpoint, plain_checkpoint, set_template, stamp

    settings, template = run.settings, run.settings["chat_template"]
    rules = TemplateRules(**settings["template"])
    manifest = {} if settings["local"] else read_json(snakemake.input.assets[0])
    is_gguf = settings["format"] == "gguf"
    fetched = gguf_file if is_gguf else model_folder
    source = Path(settings["local"] or fetched(snakemake.input.assets[0]))
    with whole_directory(snakemake.output.model) as folder:
        if is_gguf:
            facts = convert_gguf(source, folder, manifest.get("licence"))
            set_template(folder, template, rules)
        else:
            link_checkpoint(source, folder, chat_template=template, rules=rules, hub=settings["hub"])
            facts = plain_checkpoint(folder)
        facts |= check_checkpoint(folder, n_layers=settings["n_layers"], chat=settings["chat"], rules=rules)
        revision = manifest.get("commit") or ""
        run.note(fingerprint=stamp(folder, revision), source=str(source), revision=revision, **facts)
