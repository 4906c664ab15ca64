"""Fetch an asset from the hub or from an address, and compare it with the lock file."""

from rebend.pipeline.jobs.job import job

with job(snakemake) as run:
    from pathlib import Path

    from rebend.data.asset_lock import add_to_lock, read_lock
    from rebend.data.assets import Asset
    from rebend.data.fetch import fetch_asset
    from rebend.io.files import write_json

    asset = Asset.from_settings(run.settings)
    manifest = fetch_asset(asset, Path(snakemake.params.files), read_lock(snakemake.params.lock).get(asset.name))
    add_to_lock(snakemake.params.lock, manifest)
    write_json(snakemake.output.manifest, manifest)
    run.note(commit=manifest["commit"], licence=manifest["licence"], size=manifest["size"])
