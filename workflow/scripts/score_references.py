"""Score the preferred answers of a data set with a reward model."""

from rebend.provenance import recorded

with recorded(
    "score_references",
    snakemake.input,
    snakemake.output,
    snakemake.params,
    snakemake.log,
    snakemake.threads,
    gpus=snakemake.resources.gpu,
) as run:
    from rebend.config.blocks import RewardBlock
    from rebend.parts import Parts
    from rebend.rewards import load_reward
    from rebend.schemas import PROMPTS
    from rebend.scores import score_table
    from rebend.storage import read_parquet, write_parquet

    model = load_reward(snakemake.input.reward, RewardBlock.model_validate(run.settings["reward"]))
    rows = [row for row in read_parquet(snakemake.input.data, PROMPTS).to_pylist() if row["reference"]]
    parts = Parts(run.progress)
    rewards = model.score([row["messages"] for row in rows], [row["reference"] for row in rows], parts)
    scores = score_table([row["row_id"] for row in rows], rewards)
    write_parquet(snakemake.output.scores, scores)
    run.note(rows=scores.num_rows, not_scored=scores["score"].null_count)
    parts.clear()
