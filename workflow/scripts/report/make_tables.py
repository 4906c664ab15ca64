"""Compute the tables of a study from its scores."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.report.tables.all import all_tables, write_tables
    from rebend.report.transcripts.page import files
    from rebend.report.transcripts.rows import transcripts

    tables = all_tables(run.settings)
    examples = transcripts(run.settings)
    write_tables(snakemake.output.tables, tables, files(run.settings, examples))
    claims = tables["claims"]
    run.note(rows={name: len(table) for name, table in tables.items()})
    run.note(claims=len(claims), claims_met=int(claims["met"].sum()), transcripts=len(examples))
    for line in claims.to_dict("records"):
        print(f"{'met' if line['met'] else 'NOT MET'}: {line['text']} (measured {line['measured']})")
