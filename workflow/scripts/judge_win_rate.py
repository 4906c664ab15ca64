"""Judge whether each response beats the data set's preferred answer."""

from rebend.provenance import recorded

with recorded(
    "judge_win_rate", snakemake.input, snakemake.output.record, snakemake.params, snakemake.log, snakemake.threads
) as run:
    import shutil

    from rebend.config.blocks import JudgeBlock
    from rebend.judges import flip_rate, judge_wins
    from rebend.schemas import RESPONSES
    from rebend.scores import matched, read_scores
    from rebend.storage import read_parquet, write_parquet

    machine = {key: found for key in ("concurrency", "retries") if (found := snakemake.resources.get(key)) is not None}
    judge = JudgeBlock.model_validate({**run.settings["judge"], **machine})
    rows = matched(read_parquet(snakemake.input.data), read_parquet(snakemake.input.responses, RESPONSES))
    rewards = read_scores(snakemake.input.rewards or None)  # no file for other judges
    references = read_scores(snakemake.input.reference_rewards or None)
    verdicts = judge_wins(judge, rows, run.progress, rewards, references)
    write_parquet(snakemake.output.verdicts, verdicts, {"judge": judge.method, "model": judge.model or ""})
    shutil.rmtree(run.progress, ignore_errors=True)
    run.note(rows=len(rows), judged=verdicts.num_rows, not_scored=verdicts["verdict"].null_count)
    run.note(flip_rate=flip_rate(verdicts), tokens=sum(filter(None, verdicts["tokens"].to_pylist())))
