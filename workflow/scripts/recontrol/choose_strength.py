"""Choose the strength of a control on validation prompts."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.config.models import EncoderBlock
    from rebend.config.rewards import RewardBlock
    from rebend.evaluation.coherence import Coherence
    from rebend.io.chunks import ChunkStore
    from rebend.io.files import read_parquet, write_json
    from rebend.io.schemas import EMBEDDINGS
    from rebend.models.loading import load_policy
    from rebend.models.rewards.reward import load_reward
    from rebend.models.sentence_encoder import load_encoder
    from rebend.recontrol.choose_strength import choose_strength
    from rebend.recontrol.decode import control_block
    from rebend.recontrol.resources import ControlResources

    policy = load_policy(snakemake.input.model, run.settings["dtype"])
    endpoint_options = snakemake.resources.endpoint_options
    encoder = load_encoder(snakemake.input.encoder or None, EncoderBlock.model_validate(run.settings["encoder"]))
    parts = ChunkStore(run.progress)
    strength = choose_strength(
        policy,
        read_parquet(snakemake.input.data).to_pylist(),
        control_block(run.settings["control"]),
        ControlResources(policy, snakemake.input, run.settings["guidance_reward"], endpoint_options),
        load_reward(
            snakemake.input.reward,
            RewardBlock.model_validate(run.settings["reward"]),
            endpoint_options=endpoint_options,
        ),
        Coherence(encoder, read_parquet(snakemake.input.prompts, EMBEDDINGS)),
        parts,
    )
    write_json(snakemake.output.strength, strength)
    print(f"strength {strength['step_size']:g}, steps {strength['n_steps']}: {strength['reason']}")
    run.note(step_size=strength["step_size"], n_steps=strength["n_steps"], reason=strength["reason"])
    parts.clear()
