"""Judge whether each response beats the data set's preferred answer."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.config.judges import JUDGES
    from rebend.evaluation.judges.block import judge_block
    from rebend.evaluation.judges.win_rate.judge import described, judge_wins
    from rebend.evaluation.judges.win_rate.statistics import win_rates
    from rebend.io.files import read_parquet, write_parquet
    from rebend.io.schemas import RESPONSES
    from rebend.io.scores import matched, read_scores

    judge = judge_block(run.settings["judge"], snakemake.resources, JUDGES)
    rows = matched(read_parquet(snakemake.input.data), read_parquet(snakemake.input.responses, RESPONSES))
    rewards = read_scores(snakemake.input.rewards or None)  # only the judge reward_model has these files
    references = read_scores(snakemake.input.reference_rewards or None)
    verdicts, spent = judge_wins(judge, rows, snakemake.params.store, rewards, references)
    write_parquet(snakemake.output.verdicts, verdicts, described(judge))
    run.note(rows=len(rows), judged=verdicts.num_rows, not_scored=verdicts["verdict"].null_count)
    run.note(**win_rates(verdicts).facts(), spent_now=spent.facts())
