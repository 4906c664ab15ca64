"""Join several data sets of one kind to one."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.data.joined import join
    from rebend.io.files import read_parquet, write_parquet
    from rebend.io.schemas import KINDS

    kind = run.settings["block"]["kind"]
    table, repeated = join([read_parquet(path, KINDS[kind]) for path in snakemake.input.parts], kind)
    write_parquet(snakemake.output.data, table, {"kind": kind, "reader": "joined"})
    run.note(rows=table.num_rows, repeated=repeated)
    print(f"{table.num_rows} rows; left out because an earlier row is the same: {repeated}")
