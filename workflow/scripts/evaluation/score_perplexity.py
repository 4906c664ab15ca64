"""Score the perplexity of each answer under the base model of the model that wrote it."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.evaluation.perplexity import score_perplexity
    from rebend.io.chunks import ChunkStore
    from rebend.io.files import read_parquet, write_parquet
    from rebend.models.loading import load_policy

    policy = load_policy(snakemake.input.model, run.settings["dtype"])
    parts = ChunkStore(run.progress)
    data, answers = read_parquet(snakemake.input.data), read_parquet(snakemake.input.answers)
    scores, notes = score_perplexity(policy, data, answers, parts)
    write_parquet(snakemake.output.scores, scores, {"fingerprint": policy.fingerprint})
    run.note(rows=scores.num_rows, not_scored=scores["score"].null_count, **notes)
    parts.clear()
