"""Sample answers of a model to harmless prompts, as chats for training."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    import shutil

    from rebend.config.datasets import SampledChatsBlock
    from rebend.config.safety import SAFETY_JUDGES
    from rebend.evaluation.judges.block import judge_block
    from rebend.evaluation.sampled_pairs.chats import sample_chats
    from rebend.evaluation.sampled_pairs.prompts import chosen_prompts
    from rebend.evaluation.sampled_pairs.sampling import RoundJudge, load_sampler
    from rebend.io.chunks import ChunkStore
    from rebend.io.files import write_parquet

    least = int(snakemake.resources.least)  # no setting, since it changes no row
    block = SampledChatsBlock.model_validate({**run.settings["block"], "least": least})
    settings = judge_block(run.settings["safety_judge"], snakemake.resources, SAFETY_JUDGES)
    judge = RoundJudge(settings, snakemake.input.get("judge") or None, run.progress / "judged")
    prompts, left_out = chosen_prompts(block, snakemake.input, harmful=False)
    parts = ChunkStore(run.progress / "sampled")
    sampler = load_sampler(block, snakemake.input.model, run.settings["dtype"], judge, parts)
    chats, facts = sample_chats(block, prompts, sampler)
    write_parquet(
        snakemake.output.data,
        chats,
        {"kind": block.kind, "reader": block.reader, "fingerprint": sampler.policy.fingerprint},
    )
    run.note(**facts, prompts_left_out=left_out)
    print(f"{facts['rows']} chats; samples left out: {facts['harmless_left_out'] or 'none'}")
    shutil.rmtree(run.progress, ignore_errors=True)
