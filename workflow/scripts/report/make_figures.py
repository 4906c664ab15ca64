"""Draw the figures of a study."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.report.figures.all import all_figures
    from rebend.report.figures.style import write_figures
    from rebend.report.tables.all import read_tables

    figures = all_figures(run.settings, read_tables(snakemake.input.tables))
    write_figures(snakemake.output.figures, figures)
    run.note(figures=list(figures))
