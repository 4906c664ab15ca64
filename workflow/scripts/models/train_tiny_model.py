"""Train a small language model from random weights on chats."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    import torch

    from rebend.config.models import TinyModel
    from rebend.io.checkpoints import Checkpoints
    from rebend.io.files import read_parquet
    from rebend.io.schemas import CHAT
    from rebend.models.tiny_model import train_tiny_model

    # Two threads even with `--cores 1`: on some processors one thread sums in another order and gives other weights.
    torch.set_num_threads(2)
    checkpoints = Checkpoints(run.progress)
    chats = [messages for path in snakemake.input.data for messages in read_parquet(path, CHAT)["messages"].to_pylist()]
    facts = train_tiny_model(chats, TinyModel.model_validate(run.settings), snakemake.output.model, checkpoints)
    run.note(**facts)
    checkpoints.clear()
