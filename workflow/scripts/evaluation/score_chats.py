"""Score the perplexity of a model on the answers of held-out chats."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.evaluation.chat_perplexity import score_chats
    from rebend.io.chunks import ChunkStore
    from rebend.io.files import read_parquet, write_parquet
    from rebend.io.schemas import CHAT
    from rebend.models.loading import load_policy

    policy = load_policy(snakemake.input.model, run.settings["dtype"])
    parts = ChunkStore(run.progress)
    scores, notes = score_chats(policy, read_parquet(snakemake.input.data, CHAT), parts)
    write_parquet(snakemake.output.scores, scores, {"fingerprint": policy.fingerprint})
    run.note(rows=scores.num_rows, not_scored=scores["score"].null_count, **notes)
    parts.clear()
