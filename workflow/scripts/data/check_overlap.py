"""Refuse prompts of a data set from which something learnt, by content."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.data.overlap import check_overlap
    from rebend.io.files import write_json

    uses = run.settings["learnt"]
    others = [(name, use, path) for (name, use), path in zip(uses.items(), snakemake.input.learnt, strict=True)]
    counts = check_overlap(run.settings["dataset"], snakemake.input.data, others)
    write_json(snakemake.output.overlap, {"prompts": counts})
    print(f"no prompt of {run.settings['dataset']} is in {', '.join(uses) or 'another data set'}")
