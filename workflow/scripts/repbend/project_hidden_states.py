"""Project hidden states of safe and unsafe answers, before and after the adapter, to a plane."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.io.files import read_parquet, write_parquet
    from rebend.io.schemas import SAFETY
    from rebend.repbend.projection import project_hidden_states

    points = project_hidden_states(
        snakemake.input.base,
        snakemake.input.adapted,
        read_parquet(snakemake.input.data, SAFETY),
        run.settings["dtype"],
        index=run.settings["hidden_index"],
        max_length=run.settings["max_length"],
    )
    write_parquet(snakemake.output.states, points)
    run.note(answers=points.num_rows // 2)
