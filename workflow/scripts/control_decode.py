"""Decode responses under a control."""

from rebend.provenance import recorded

with recorded(
    "control_decode", snakemake.input, snakemake.output.record, snakemake.params, snakemake.log, snakemake.threads
) as run:
    import time

    from rebend.config.blocks import ControlBlock
    from rebend.controls import make_control
    from rebend.decoding import control_decode
    from rebend.models import load_policy
    from rebend.parts import Parts
    from rebend.storage import read_json, read_parquet, write_parquet
    from rebend.values import load_value

    settings = dict(run.settings["control"])
    if snakemake.input.get("strength"):
        settings.update(step_size=float(read_json(snakemake.input.strength)["step_size"]), strength_of=None)
    control = ControlBlock.model_validate(settings)
    policy = load_policy(snakemake.input.model, run.settings["dtype"])
    network = (
        load_value(snakemake.input.value, policy.fingerprint, policy.hidden_size, policy.device)
        if snakemake.input.get("value")
        else None
    )
    undisturbed = not run.progress.exists()
    parts = Parts(run.progress)
    rows = read_parquet(snakemake.input.data).to_pylist()
    start = time.perf_counter()
    responses, notes = control_decode(policy, rows, control.decoding, make_control(control, network), parts)
    if undisturbed:  # the time of a resumed attempt would be that of its rest only
        run.note(decode_seconds=round(time.perf_counter() - start, 3))
    write_parquet(snakemake.output.responses, responses, {"fingerprint": policy.fingerprint, "method": control.method})
    run.note(rows=len(rows), batch_size=control.decoding.batch_size, step_size=control.step_size, **notes)
    parts.clear()
