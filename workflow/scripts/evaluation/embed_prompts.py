"""Embed the prompts of a data set; all coherence scores on it use the embeddings."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.config.models import EncoderBlock
    from rebend.evaluation.coherence import embed_prompts
    from rebend.io.files import read_parquet, write_parquet
    from rebend.models.sentence_encoder import load_encoder

    folder = snakemake.input.encoder or None  # no folder for an encoder in a package
    encoder = load_encoder(folder, EncoderBlock.model_validate(run.settings["encoder"]))
    embeddings = embed_prompts(encoder, read_parquet(snakemake.input.data))
    write_parquet(snakemake.output.embeddings, embeddings)
    run.note(rows=embeddings.num_rows)
