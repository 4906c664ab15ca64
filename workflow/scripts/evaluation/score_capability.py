"""Score the answers of a model to the questions of a capability benchmark."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from rebend.config.capability import CapabilityBlock
    from rebend.data.assets import source_file
    from rebend.evaluation.capability import score_capability
    from rebend.evaluation.capability_questions import read_examples, read_questions
    from rebend.io.checksums import file_digest
    from rebend.io.chunks import ChunkStore
    from rebend.io.files import write_parquet
    from rebend.models.loading import load_policy

    block = CapabilityBlock.model_validate(run.settings["block"])
    manifests = snakemake.input.get("assets", [])
    files = [source_file(source, manifests, run.progress) for source in block.sources]
    questions, examples = read_questions(block.task, files)
    if block.examples:
        files.append(source_file(block.examples, manifests, run.progress))
        examples = read_examples(block.task, files[-1])
    policy = load_policy(snakemake.input.model, run.settings["dtype"])
    parts = ChunkStore(run.progress)
    scores, notes = score_capability(policy, block, questions, examples, parts)
    metadata = {"task": block.task, "metric": block.scored_by, "few_shot": str(block.shots)}
    write_parquet(snakemake.output.scores, scores, {**metadata, "fingerprint": policy.fingerprint})
    run.note(source_sha256=[file_digest(file) for file in files], **notes)
    parts.clear()
