"""Sample pairs of a safe and an unsafe answer from a model, for training."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    import shutil

    from rebend.config.datasets import SampledPairsBlock
    from rebend.config.safety import SAFETY_JUDGES
    from rebend.data.overlap import prompts_of
    from rebend.evaluation.judges.block import judge_block
    from rebend.evaluation.sampled_pairs.pairs import sample_pairs
    from rebend.evaluation.sampled_pairs.prompts import Near, usable_prompts
    from rebend.evaluation.sampled_pairs.refusals import read_refusals
    from rebend.evaluation.sampled_pairs.sampling import RoundJudge, Sampler
    from rebend.io.chunks import ChunkStore
    from rebend.io.files import read_parquet, write_parquet
    from rebend.io.schemas import EMBEDDINGS, EVALUATION
    from rebend.models.loading import load_policy

    block = SampledPairsBlock.model_validate(run.settings["block"])
    settings = judge_block(run.settings["safety_judge"], snakemake.resources, SAFETY_JUDGES)
    judge = RoundJudge(settings, snakemake.input.get("judge") or None, run.progress / "judged")
    near = block.near and Near(
        [read_parquet(path, EMBEDDINGS) for path in snakemake.input.embeddings],
        {
            name: read_parquet(path, EMBEDDINGS)
            for name, path in zip(block.near.data, snakemake.input.near, strict=True)
        },
        block.near.cosine,
    )
    without = {name: prompts_of(path) for name, path in zip(block.without, snakemake.input.without, strict=True)}
    rows = [row for path in snakemake.input.prompts for row in read_parquet(path, EVALUATION).to_pylist()]
    prompts, left_out = usable_prompts(rows, without, near)
    print(f"{len(prompts)} of {len(rows)} prompts are asked; left out: {left_out or 'none'}", flush=True)
    policy = load_policy(snakemake.input.model, run.settings["dtype"])
    decoding = block.decoding.model_copy(update={"seed": block.decoding.seed + block.seed})
    sampler = Sampler(policy, decoding, judge, ChunkStore(run.progress / "sampled"))
    refusals = read_refusals(snakemake.input.refusals) if block.safe.file else []
    pairs, facts = sample_pairs(block, prompts, sampler, refusals)
    write_parquet(
        snakemake.output.data,
        pairs,
        {"kind": block.kind, "reader": block.reader, "fingerprint": policy.fingerprint},
    )
    run.note(**facts, prompts_left_out=left_out)
    print(f"{facts['pairs']} pairs; samples left out: {facts['unsafe_left_out'] or 'none'}")
    shutil.rmtree(run.progress, ignore_errors=True)
