"""Convert a data set from its source to the Parquet schema of its kind."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    import shutil

    from rebend.config.datasets import DatasetBlock
    from rebend.data.assets import source_file
    from rebend.data.datasets import prepare_dataset
    from rebend.data.overlap import prompts_of
    from rebend.io.checksums import file_digest
    from rebend.io.files import write_parquet

    block = DatasetBlock.model_validate(run.settings["block"])
    manifests = snakemake.input.get("assets", [])
    source = source_file(block.source, manifests, run.progress)
    reference = source_file(block.reference, manifests, run.progress) if block.reference else None
    without = {name: prompts_of(path) for name, path in zip(block.without, snakemake.input.without, strict=True)}
    prepared = prepare_dataset(block, source, reference, without)
    write_parquet(snakemake.output.data, prepared.table, {"kind": block.kind, "reader": block.reader})
    run.note(
        rows=prepared.table.num_rows,
        read=prepared.read,
        dropped=prepared.dropped,
        repeated=prepared.repeated,
        source_sha256=source and file_digest(source),
        reference_sha256=reference and file_digest(reference),
    )
    print(f"{prepared.table.num_rows} of {prepared.read} rows; left out: {prepared.dropped or 'none'}")
    shutil.rmtree(run.progress, ignore_errors=True)
