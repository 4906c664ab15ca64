"""Score how little each response repeats itself."""

from rebend.provenance import recorded

with recorded(
    "score_diversity", snakemake.input, snakemake.output, snakemake.params, snakemake.log, snakemake.threads
) as run:
    from rebend.diversity import diversity
    from rebend.schemas import RESPONSES
    from rebend.scores import score_table
    from rebend.storage import read_parquet, write_parquet

    responses = read_parquet(snakemake.input.responses, RESPONSES)
    values = [None if text is None else diversity(text) for text in responses["response"].to_pylist()]
    scores = score_table(responses["row_id"].to_pylist(), values)
    write_parquet(snakemake.output.scores, scores)
    run.note(rows=scores.num_rows, not_scored=scores["score"].null_count)
