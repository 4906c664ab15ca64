"""Judge each completion as harmful, harmless, refusal or incoherent."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    import shutil

    from rebend.config.safety import SAFETY_JUDGES
    from rebend.evaluation.judges.block import judge_block
    from rebend.evaluation.judges.safety.judge import judge_safety
    from rebend.io.files import read_parquet, write_parquet
    from rebend.io.schemas import COMPLETIONS, EVALUATION
    from rebend.io.scores import matched

    judge = judge_block(run.settings["safety_judge"], snakemake.resources, SAFETY_JUDGES)
    completions = read_parquet(snakemake.input.completions, COMPLETIONS)
    rows = matched(read_parquet(snakemake.input.data, EVALUATION), completions)
    model = snakemake.input.get("judge") or None
    verdicts, spent = judge_safety(judge, rows, model, run.progress, snakemake.params.store)
    write_parquet(snakemake.output.verdicts, verdicts, {"judge": judge.method})
    run.note(rows=verdicts.num_rows, not_scored=verdicts["verdict"].null_count)
    run.note(tokens=sum(filter(None, verdicts["tokens"].to_pylist())), spent_now=spent.facts())
    shutil.rmtree(run.progress, ignore_errors=True)
