"""Choose the step size of a control on validation prompts."""

from rebend.provenance import recorded

with recorded(
    "choose_strength", snakemake.input, snakemake.output.record, snakemake.params, snakemake.log, snakemake.threads
) as run:
    from rebend.coherence import load_encoder
    from rebend.config.blocks import ControlBlock, EncoderBlock, RewardBlock
    from rebend.models import load_policy
    from rebend.parts import Parts
    from rebend.rewards import load_reward
    from rebend.storage import read_parquet, write_json
    from rebend.strengths import choose_strength
    from rebend.values import load_value

    policy = load_policy(snakemake.input.model, run.settings["dtype"])
    parts = Parts(run.progress)
    strength = choose_strength(
        policy,
        load_value(snakemake.input.value, policy.fingerprint, policy.hidden_size, policy.device),
        read_parquet(snakemake.input.data).to_pylist(),
        ControlBlock.model_validate(run.settings["control"]),
        load_reward(snakemake.input.reward, RewardBlock.model_validate(run.settings["reward"])),
        load_encoder(
            snakemake.input.get("encoder") or None, EncoderBlock.model_validate(run.settings["encoder"])
        ).coherence,
        parts,
    )
    write_json(snakemake.output.strength, strength)
    print(f"step size {strength['step_size']:g}: {strength['reason']}")
    run.note(step_size=strength["step_size"], reason=strength["reason"])
    parts.clear()
