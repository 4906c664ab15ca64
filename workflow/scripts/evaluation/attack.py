"""Attack a model with the prompts of an evaluation data set and decode its responses."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.config.safety import ATTACKS
    from rebend.evaluation.attacks.attack import run_attack
    from rebend.io.chunks import ChunkStore
    from rebend.io.files import read_json, read_parquet, write_parquet
    from rebend.io.schemas import EVALUATION
    from rebend.models.loading import load_policy
    from rebend.recontrol.decode import control_block, make_control
    from rebend.recontrol.resources import ControlResources

    strength = read_json(snakemake.input.strength) if snakemake.input.get("strength") else None
    control = control_block(run.settings["control"], strength)
    block = ATTACKS[run.settings["attack"]["method"]].block.model_validate(run.settings["attack"])
    policy = load_policy(snakemake.input.model, run.settings["dtype"])
    resources = ControlResources(
        policy, snakemake.input, run.settings["guidance_reward"], snakemake.resources.endpoint_options
    )
    acting = make_control(control, resources)
    parts = ChunkStore(run.progress)
    rows = read_parquet(snakemake.input.data, EVALUATION).to_pylist()
    examples = read_parquet(snakemake.input.examples, EVALUATION).to_pylist() if snakemake.input.get("examples") else []
    completions, notes = run_attack(policy, rows, block, control.decoding, acting, parts, examples)
    write_parquet(snakemake.output.completions, completions, {"fingerprint": policy.fingerprint})
    run.note(batch_size=control.decoding.batch_size, **control.facts(), **notes)
    parts.clear()
