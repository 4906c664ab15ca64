"""Write the report of a study as one self-contained HTML page."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from pathlib import Path

    from rebend.io.files import write_text
    from rebend.report.html.page import make_report
    from rebend.report.tables.all import read_tables
    from rebend.report.transcripts.page import read_transcripts
    from rebend.report.transcripts.rows import is_wanted

    captions = Path(snakemake.input.captions).read_text(encoding="utf-8")
    folder = snakemake.input.tables
    examples = read_transcripts(folder) if is_wanted(run.settings) else None
    page = make_report(run.settings, read_tables(folder), snakemake.input.figures, captions, examples)
    write_text(snakemake.output.report, page)
    run.note(characters=len(page))
