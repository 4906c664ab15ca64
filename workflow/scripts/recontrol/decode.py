"""Decode responses under a control."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.io.chunks import ChunkStore
    from rebend.io.files import read_json, read_parquet, write_parquet
    from rebend.io.progress import Stopwatch
    from rebend.models.loading import load_policy
    from rebend.recontrol.decode import control_block, decode_under
    from rebend.recontrol.resources import ControlResources

    strength = read_json(snakemake.input.strength) if snakemake.input.get("strength") else None
    control = control_block(run.settings["control"], strength)
    policy = load_policy(snakemake.input.model, run.settings["dtype"])
    resources = ControlResources(
        policy, snakemake.input, run.settings["guidance_reward"], snakemake.resources.endpoint_options
    )
    undisturbed = not run.progress.exists()
    rows = read_parquet(snakemake.input.data).to_pylist()
    if undisturbed:  # a warm-up: loading and compiling is not part of the time per token
        decode_under(policy, rows[:1], control, resources, ChunkStore(None))
    watch = Stopwatch(policy.device)
    parts = ChunkStore(run.progress, watch.lap)
    responses, notes = decode_under(policy, rows, control, resources, parts)
    if undisturbed:  # a resumed job decodes only the remaining prompts
        run.note(decode_seconds=round(watch.seconds(), 3), clock=watch.clock, **watch.facts())
    write_parquet(snakemake.output.responses, responses, {"fingerprint": policy.fingerprint, "method": control.method})
    run.note(rows=len(rows), batch_size=control.decoding.batch_size, **control.facts(), **notes)
    parts.clear()
