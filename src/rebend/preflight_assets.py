"""What is looked at before any job starts, of what comes from outside: tokens for gated assets, and the lock file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rebend import paths
from rebend.asset_lock import lock_mistakes
from rebend.assets import Asset, block_assets
from rebend.errors import ConfigError
from rebend.plan import Plan
from rebend.preflight_data import token_mistake


def check_before_fetch(plan: Plan) -> None:
    """Raise `ConfigError` with everything that keeps a study's assets from being fetched."""
    if mistakes := asset_mistakes(plan):
        raise ConfigError("\n  " + "\n  ".join(mistakes))


def asset_mistakes(plan: Plan) -> list[str]:
    """Return a sentence per gated asset that nobody here may fetch, and per fetched one that the lock file denies."""
    tokens = [mistake for _, mistake in missing_tokens(plan)]
    return tokens + lock_mistakes(paths.ASSET_LOCK, (paths.asset(name) for name in plan.assets))


def missing_tokens(plan: Plan) -> Iterator[tuple[Asset, str]]:
    """Yield each gated asset of a study that is neither fetched nor in the hub's cache, if there is no token for it."""
    for section, names in plan.used.items():
        for name in names:
            for asset in block_assets(plan.config[section][name]):
                if not asset.gated or Path(paths.asset(asset.name)).exists():
                    continue
                first = asset.files[0] if asset.kind == "dataset" else None
                if mistake := token_mistake(f"{section}.{name}.hub", asset.where, asset.revision, first):
                    yield asset, mistake
