"""Write the report of a study as one self-contained HTML page."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from pathlib import Path

    from rebend.io.files import write_text
    from rebend.report.html.page import make_report
    from rebend.report.tables.all import read_tables

    captions = Path(snakemake.input.captions).read_text(encoding="utf-8")
    page = make_report(run.settings, read_tables(snakemake.input.tables), snakemake.input.figures, captions)
    write_text(snakemake.output.report, page)
    run.note(characters=len(page))
