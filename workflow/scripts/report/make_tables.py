"""Compute the tables of a study from its scores."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.report.tables.all import all_tables, write_tables

    tables = all_tables(run.settings)
    write_tables(snakemake.output.tables, tables)
    claims = tables["claims"]
    run.note(rows={name: len(table) for name, table in tables.items()})
    run.note(claims=len(claims), claims_met=int(claims["met"].sum()))
    for line in claims.to_dict("records"):
        print(f"{'met' if line['met'] else 'NOT MET'}: {line['text']} (measured {line['measured']})")
