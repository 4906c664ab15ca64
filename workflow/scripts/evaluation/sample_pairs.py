"""Sample pairs of a safe and an unsafe answer from a model, for training."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    import shutil

    from rebend.config.datasets import SampledPairsBlock
    from rebend.config.safety import SAFETY_JUDGES
    from rebend.evaluation.judges.block import judge_block
    from rebend.evaluation.sampled_pairs.pairs import sample_pairs
    from rebend.evaluation.sampled_pairs.prompts import chosen_prompts
    from rebend.evaluation.sampled_pairs.refusals import read_refusals
    from rebend.evaluation.sampled_pairs.sampling import RoundJudge, load_sampler
    from rebend.io.chunks import ChunkStore
    from rebend.io.files import write_parquet

    least = int(snakemake.resources.least)  # no setting, since it changes no row
    block = SampledPairsBlock.model_validate({**run.settings["block"], "least": least})
    settings = judge_block(run.settings["safety_judge"], snakemake.resources, SAFETY_JUDGES)
    judge = RoundJudge(settings, snakemake.input.get("judge") or None, run.progress / "judged")
    prompts, left_out = chosen_prompts(block, snakemake.input, harmful=True)
    parts = ChunkStore(run.progress / "sampled")
    sampler = load_sampler(block, snakemake.input.model, run.settings["dtype"], judge, parts)
    refusals = read_refusals(snakemake.input.refusals) if block.safe.file else []
    pairs, facts = sample_pairs(block, prompts, sampler, refusals)
    write_parquet(
        snakemake.output.data,
        pairs,
        {"kind": block.kind, "reader": block.reader, "fingerprint": sampler.policy.fingerprint},
    )
    run.note(**facts, prompts_left_out=left_out)
    print(f"{facts['pairs']} pairs; samples left out: {facts['unsafe_left_out'] or 'none'}")
    shutil.rmtree(run.progress, ignore_errors=True)
