"""Judge each completion: harmful, harmless, a refusal, or incoherent."""

from rebend.provenance import recorded

with recorded(
    "score_safety",
    snakemake.input,
    snakemake.output,
    snakemake.params,
    snakemake.log,
    snakemake.threads,
    gpus=snakemake.resources.gpu,
    private=True,
) as run:
    import shutil

    from rebend.config.safety import SAFETY_JUDGES
    from rebend.safety import judge_safety
    from rebend.schemas import COMPLETIONS, EVALUATION
    from rebend.scores import matched
    from rebend.storage import read_parquet, write_parquet

    settings = dict(run.settings["safety_judge"])
    machine = {key: found for key in ("concurrency", "retries") if (found := snakemake.resources.get(key)) is not None}
    known = SAFETY_JUDGES[settings["method"]]
    judge = known.model_validate({**settings, **{k: v for k, v in machine.items() if k in known.model_fields}})
    completions = read_parquet(snakemake.input.completions, COMPLETIONS)
    rows = matched(read_parquet(snakemake.input.data, EVALUATION), completions)
    verdicts = judge_safety(judge, rows, snakemake.input.get("judge") or None, run.progress)
    write_parquet(snakemake.output.verdicts, verdicts, {"judge": judge.method})
    run.note(rows=verdicts.num_rows, not_scored=verdicts["verdict"].null_count)
    run.note(tokens=sum(filter(None, verdicts["tokens"].to_pylist())))
    shutil.rmtree(run.progress, ignore_errors=True)
