"""Sample pairs of a safe and an unsafe answer from a model, for training."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    import shutil

    from rebend.config.datasets import SampledPairsBlock
    from rebend.evaluation.sampled_pairs.pairs import sample_pairs
    from rebend.evaluation.sampled_pairs.refusals import read_refusals
    from rebend.evaluation.sampled_pairs.set_up import set_up
    from rebend.io.files import write_parquet

    block, prompts, left_out, sampler = set_up(
        SampledPairsBlock, run.settings, snakemake.input, snakemake.resources, run.progress, harmful=True
    )
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
