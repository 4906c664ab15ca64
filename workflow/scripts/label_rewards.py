"""Give every sampled response its reward."""

from rebend.provenance import recorded

with recorded(
    "label_rewards", snakemake.input, snakemake.output.record, snakemake.params, snakemake.log, snakemake.threads
) as run:
    from rebend.config.blocks import RewardBlock
    from rebend.parts import Parts
    from rebend.rewards import load_reward
    from rebend.schemas import PROMPTS
    from rebend.scores import by_row_id, score_table
    from rebend.shards import Activations
    from rebend.storage import read_parquet, write_parquet

    model = load_reward(snakemake.input.reward, RewardBlock.model_validate(run.settings["reward"]))
    rows = by_row_id(read_parquet(snakemake.input.data, PROMPTS).to_pylist())
    made = Activations(snakemake.input.activations).responses().to_pylist()
    parts = Parts(run.progress)
    rewards = model.score([rows[r["row_id"]]["messages"] for r in made], [r["response"] for r in made], parts)
    scores = score_table([r["response_id"] for r in made], rewards)
    write_parquet(snakemake.output.rewards, scores)
    run.note(rows=scores.num_rows, not_scored=scores["score"].null_count)
    parts.clear()
