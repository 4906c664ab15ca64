"""The lock file of assets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rebend.data.asset_lock import add_to_lock, lock_mistakes, read_lock
from rebend.data.assets import Asset
from rebend.data.fetch import fetch_asset
from rebend.errors import DataError
from tests.helpers.hub_assets import BODY, DIGEST, address_asset, write_manifest
from tests.helpers.hub_server import Hub


def test_lock_file_is_sorted_and_does_not_depend_on_the_order(tmp_path: Path, hub: Hub) -> None:
    hub.plain["/plain/other.csv"] = b"a,b\n"
    manifests = [fetch_asset(Asset("url", f"{hub.url}/plain/{name}"), tmp_path) for name in ("rows.jsonl", "other.csv")]
    for lock, order in ((tmp_path / "one.json", manifests), (tmp_path / "two.json", manifests[::-1])):
        for manifest in order:
            add_to_lock(lock, manifest)
            add_to_lock(lock, manifest)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert str(tmp_path) not in (tmp_path / "one.json").read_text()
    assert list(read_lock(tmp_path / "one.json")) == sorted(manifest["asset"] for manifest in manifests)


def test_asset_that_differs_from_its_entry_is_refused(tmp_path: Path, hub: Hub) -> None:
    lock = tmp_path / "assets.lock.json"
    first = fetch_asset(address_asset(hub), tmp_path)
    add_to_lock(lock, first)
    before = lock.read_bytes()
    hub.plain["/plain/rows.jsonl"] = BODY + b"{}\n"
    other = fetch_asset(address_asset(hub), tmp_path / "again", read_lock(lock)[first["asset"]])
    with pytest.raises(DataError, match=rf"rows\.jsonl: the fetched files differ from .*locked is {DIGEST}.*delete"):
        add_to_lock(lock, other)
    assert lock.read_bytes() == before
    assert lock_mistakes(lock, [write_manifest(tmp_path, first), tmp_path / "none.json"]) == []
    assert len(lock_mistakes(lock, [write_manifest(tmp_path / "again", other)])) == 1


def test_several_processes_add_entries_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom rebend.data.asset_lock import add_to_lock\n"
        "for i in range(5):\n"
        "    manifest = {'asset': f'{sys.argv[2]}-{i}', 'commit': None, 'digest': '1', 'files': {}}\n"
        "    add_to_lock(sys.argv[1], manifest)\n"
    )
    lock = str(tmp_path / "lock.json")
    jobs = [subprocess.Popen([sys.executable, "-c", code, lock, str(number)]) for number in range(4)]
    assert [job.wait(timeout=60) for job in jobs] == [0] * 4
    assert len(read_lock(lock)) == 20
