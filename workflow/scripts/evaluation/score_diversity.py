"""Score the diversity of each response."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.evaluation.diversity import diversity
    from rebend.io.files import read_parquet, write_parquet
    from rebend.io.schemas import RESPONSES
    from rebend.io.scores import score_table

    responses = read_parquet(snakemake.input.responses, RESPONSES)
    values = [None if text is None else diversity(text) for text in responses["response"].to_pylist()]
    scores = score_table(responses["row_id"].to_pylist(), values)
    write_parquet(snakemake.output.scores, scores)
    run.note(rows=scores.num_rows, not_scored=scores["score"].null_count)
