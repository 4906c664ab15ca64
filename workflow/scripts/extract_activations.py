"""Sample responses to one shard of the prompts and keep a hidden state of every generated token."""

from rebend.provenance import recorded

with recorded(
    "extract_activations",
    snakemake.input,
    snakemake.output,
    snakemake.params,
    snakemake.log,
    snakemake.threads,
    gpus=snakemake.resources.gpu,
) as run:
    from rebend.activations import Outputs, extract_activations
    from rebend.config.blocks import ActivationsBlock
    from rebend.models import load_policy
    from rebend.parts import Parts

    counts = extract_activations(
        load_policy(snakemake.input.model, run.settings["dtype"]),
        snakemake.input.data,
        ActivationsBlock.model_validate(run.settings["activations"]),
        run.settings["shard"],
        Outputs(snakemake.output.states, snakemake.output.responses),
        run.progress,
    )
    run.note(**counts)
    Parts(run.progress).clear()
