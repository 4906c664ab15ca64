"""Sample responses from a model and keep the final hidden state of every generated token."""

from rebend.provenance import recorded

with recorded(
    "extract_activations", snakemake.input, snakemake.output.record, snakemake.params, snakemake.log, snakemake.threads
) as run:
    from rebend.activations import extract_activations
    from rebend.config.blocks import ActivationsBlock
    from rebend.models import load_policy
    from rebend.parts import Parts
    from rebend.schemas import PROMPTS
    from rebend.storage import read_parquet

    counts = extract_activations(
        load_policy(snakemake.input.model, run.settings["dtype"]),
        read_parquet(snakemake.input.data, PROMPTS).to_pylist(),
        ActivationsBlock.model_validate(run.settings["activations"]),
        snakemake.output.activations,
        run.progress,
    )
    run.note(**counts)
    Parts(run.progress).clear()
