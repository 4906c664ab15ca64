"""Train a value network on hidden states and rewards."""

from rebend.provenance import recorded

with recorded(
    "train_value", snakemake.input, snakemake.output.record, snakemake.params, snakemake.log, snakemake.threads
) as run:
    from rebend.checkpoints import Checkpoints
    from rebend.config.blocks import ValueBlock
    from rebend.models import best_device
    from rebend.scores import read_scores
    from rebend.shards import Activations
    from rebend.storage import whole_directory
    from rebend.value_training import train_value

    scores = read_scores(snakemake.input.rewards) or {}
    rewards = {response: score for response, score in scores.items() if score is not None}
    checkpoints = Checkpoints(run.progress)
    with whole_directory(snakemake.output.value) as folder:
        facts = train_value(
            Activations(snakemake.input.activations),
            rewards,
            ValueBlock.model_validate(run.settings),
            folder,
            checkpoints,
            best_device(),
        )
    run.note(**facts, not_scored=len(scores) - len(rewards))
    checkpoints.clear()
