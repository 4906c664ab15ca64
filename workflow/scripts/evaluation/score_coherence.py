"""Score the coherence of each response with its prompt."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.config.models import EncoderBlock
    from rebend.evaluation.coherence import Coherence
    from rebend.io.files import read_parquet, write_parquet
    from rebend.io.schemas import EMBEDDINGS, RESPONSES
    from rebend.io.scores import matched, score_table
    from rebend.models.sentence_encoder import load_encoder

    folder = snakemake.input.encoder or None  # no folder for an encoder in a package
    encoder = load_encoder(folder, EncoderBlock.model_validate(run.settings["encoder"]))
    prompts = read_parquet(snakemake.input.prompts, EMBEDDINGS)
    rows = matched(prompts.select(["row_id"]), read_parquet(snakemake.input.responses, RESPONSES))
    responses = {row["row_id"]: row["response"] for row in rows if row["response"] is not None}
    cosines = Coherence(encoder, prompts)(list(responses), list(responses.values()))
    by_row = dict(zip(responses, cosines, strict=True))
    scores = score_table([row["row_id"] for row in rows], [by_row.get(row["row_id"]) for row in rows])
    write_parquet(snakemake.output.scores, scores)
    run.note(rows=scores.num_rows, not_scored=scores["score"].null_count)
