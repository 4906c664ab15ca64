"""Judge each response: harmful, harmless, a refusal, or incoherent."""

from rebend.provenance import recorded

with recorded(
    "score_safety", snakemake.input, snakemake.output.record, snakemake.params, snakemake.log, snakemake.threads
) as run:
    from rebend.config.blocks import SafetyJudgeBlock
    from rebend.safety import judge_safety
    from rebend.schemas import EVALUATION, RESPONSES
    from rebend.scores import matched
    from rebend.storage import read_parquet, write_parquet

    judge = SafetyJudgeBlock.model_validate(run.settings["safety_judge"])
    data = read_parquet(snakemake.input.data, EVALUATION)
    verdicts = judge_safety(judge, matched(data, read_parquet(snakemake.input.responses, RESPONSES)))
    write_parquet(snakemake.output.verdicts, verdicts)
    run.note(rows=verdicts.num_rows, not_scored=verdicts["verdict"].null_count)
