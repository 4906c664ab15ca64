"""Sample answers of a model to harmless prompts, as chats for training."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    import shutil

    from rebend.config.datasets import SampledChatsBlock
    from rebend.evaluation.sampled_pairs.chats import sample_chats
    from rebend.evaluation.sampled_pairs.set_up import set_up
    from rebend.io.files import write_parquet

    block, prompts, left_out, sampler = set_up(
        SampledChatsBlock, run.settings, snakemake.input, snakemake.resources, run.progress, harmful=False
    )
    chats, facts = sample_chats(block, prompts, sampler)
    write_parquet(
        snakemake.output.data,
        chats,
        {"kind": block.kind, "reader": block.reader, "fingerprint": sampler.policy.fingerprint},
    )
    run.note(**facts, prompts_left_out=left_out)
    print(f"{facts['rows']} chats; samples left out: {facts['harmless_left_out'] or 'none'}")
    shutil.rmtree(run.progress, ignore_errors=True)
