"""Join several evaluation data sets to one."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.data.joined import join
    from rebend.io.files import read_parquet, write_parquet
    from rebend.io.schemas import EVALUATION

    table, repeated = join([read_parquet(path, EVALUATION) for path in snakemake.input.parts])
    write_parquet(snakemake.output.data, table, {"kind": "evaluation", "reader": "joined"})
    run.note(rows=table.num_rows, repeated=repeated)
    print(f"{table.num_rows} rows; left out because their prompt is in an earlier row: {repeated}")
