"""Score each response with a reward model."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.config.rewards import RewardBlock
    from rebend.evaluation.reward_scores import score_rows
    from rebend.io.chunks import ChunkStore
    from rebend.io.files import read_parquet, write_parquet
    from rebend.io.schemas import RESPONSES
    from rebend.io.scores import matched
    from rebend.models.rewards.reward import load_reward

    reward = RewardBlock.model_validate(run.settings["reward"])
    model = load_reward(snakemake.input.reward, reward, endpoint_options=snakemake.resources.endpoint_options)
    rows = matched(read_parquet(snakemake.input.data), read_parquet(snakemake.input.responses, RESPONSES))
    parts = ChunkStore(run.progress)
    scores = score_rows(model, rows, "response", parts, run.settings["stop"])
    write_parquet(snakemake.output.scores, scores)
    run.note(rows=scores.num_rows, not_scored=scores["score"].null_count)
    parts.clear()
