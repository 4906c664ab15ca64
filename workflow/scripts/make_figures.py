"""Draw the figures of a study."""

from rebend.provenance import recorded

with recorded(
    "make_figures", snakemake.input, snakemake.output, snakemake.params, snakemake.log, snakemake.threads
) as run:
    from rebend.figure_style import write_figures
    from rebend.figures import all_figures
    from rebend.tables import read_tables

    figures = all_figures(run.settings, read_tables(snakemake.input.tables))
    write_figures(snakemake.output.figures, figures)
    run.note(figures=list(figures))
