"""Convert a released value network for one model."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from transformers import AutoConfig

    from rebend.config.value_models import ReleasedValueModelBlock
    from rebend.models.loading import fingerprint
    from rebend.models.remote_code import runs_code
    from rebend.recontrol.value_model.released import take_value_model

    model = snakemake.input.model
    shape = AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=runs_code(model))
    block = ReleasedValueModelBlock.model_validate(run.settings["value_model"])
    run.note(
        **take_value_model(
            snakemake.input.source, block, fingerprint(model), shape.hidden_size, snakemake.output.value_model
        )
    )
