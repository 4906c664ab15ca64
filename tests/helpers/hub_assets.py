"""Assets of a small local server that replaces the hub: their bytes, and fetching in a new process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rebend.data.assets import Asset
from rebend.io.files import write_json
from tests.helpers.hub_server import Hub

BODY = b'{"prompt": "x"}\n' * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()
CARD = b"---\nlicense: apache-2.0\n---\n# A model\n"
MODEL = {"config.json": b"{}", "model.safetensors": BODY, "README.md": CARD, "old/weights.bin": b"twice"}


def address_asset(hub: Hub, **changes: Any) -> Asset:
    """Return the asset of a plain file of the server."""
    return Asset("url", f"{hub.url}/plain/rows.jsonl", **changes)


def fetch_from_hub(hub: Hub, home: Path, asset: Asset, locked: Any = None, **environment: str) -> Any:
    """Return the manifest, or the message of a `DataError`.

    Fetches in a new process, because the hub's library reads the address of the hub when it is imported.
    """
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from rebend.data.assets import Asset\n"
        "from rebend.errors import DataError\n"
        "from rebend.data.fetch import fetch_asset\n"
        "asset, locked = Asset.from_settings(json.loads(sys.argv[1])), json.loads(sys.argv[2])\n"
        "try: print(json.dumps(fetch_asset(asset, Path(sys.argv[3]), locked)))\n"
        "except DataError as error: print(json.dumps(str(error)))\n"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **environment}
    command = [sys.executable, "-c", code, json.dumps(asset.settings()), json.dumps(locked), str(home / "files")]
    done = subprocess.run(command, env={**kept, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> str:
    """Write a manifest under its asset's name; return the path."""
    path = folder / f"{manifest['asset']}.json"
    write_json(path, manifest)
    return str(path)
