"""Score how close each response stays to its prompt."""

from rebend.provenance import recorded

with recorded(
    "score_coherence",
    snakemake.input,
    snakemake.output,
    snakemake.params,
    snakemake.log,
    snakemake.threads,
    gpus=snakemake.resources.gpu,
) as run:
    from rebend.coherence import Coherence, load_encoder
    from rebend.config.blocks import EncoderBlock
    from rebend.schemas import EMBEDDINGS, RESPONSES
    from rebend.scores import score_table
    from rebend.storage import read_parquet, write_parquet

    folder = snakemake.input.encoder or None  # no folder if a package carries the encoder
    encoder = load_encoder(folder, EncoderBlock.model_validate(run.settings["encoder"]))
    coherence = Coherence(encoder, read_parquet(snakemake.input.prompts, EMBEDDINGS))
    responses = read_parquet(snakemake.input.responses, RESPONSES).to_pylist()
    answered = {row["row_id"]: row["response"] for row in responses if row["response"] is not None}
    found = dict(zip(answered, coherence(list(answered), list(answered.values())), strict=True))
    scores = score_table([row["row_id"] for row in responses], [found.get(row["row_id"]) for row in responses])
    write_parquet(snakemake.output.scores, scores)
    run.note(rows=scores.num_rows, not_scored=scores["score"].null_count)
