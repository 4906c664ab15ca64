"""Score the repetition of each answer."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.evaluation.repetition import score_repetition
    from rebend.io.files import read_parquet, write_parquet

    scores = score_repetition(read_parquet(snakemake.input.answers))
    write_parquet(snakemake.output.scores, scores)
    run.note(rows=scores.num_rows, not_scored=scores["score"].null_count)
