"""Train a small language model from nothing on chats."""

from rebend.provenance import recorded

with recorded(
    "train_tiny_model", snakemake.input, snakemake.output, snakemake.params, snakemake.log, snakemake.threads
) as run:
    from rebend.checkpoints import Checkpoints
    from rebend.config.blocks import TinyModel
    from rebend.schemas import CHAT
    from rebend.storage import read_parquet
    from rebend.tiny_models import train_tiny_model

    checkpoints = Checkpoints(run.progress)
    chats = [messages for path in snakemake.input.data for messages in read_parquet(path, CHAT)["messages"].to_pylist()]
    facts = train_tiny_model(chats, TinyModel.model_validate(run.settings), snakemake.output.model, checkpoints)
    run.note(**facts)
    checkpoints.clear()
