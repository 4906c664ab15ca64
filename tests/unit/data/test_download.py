"""Downloads: interruption, changed files and unreachable addresses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rebend.data.assets import Asset
from rebend.data.fetch import fetch_asset
from rebend.errors import DataError
from tests.helpers.hub_assets import BODY, DIGEST, address_asset
from tests.helpers.hub_server import Hub


def test_interrupted_download_resumes_at_its_last_byte(tmp_path: Path, hub: Hub) -> None:
    hub.cut["/plain/rows.jsonl"] = 6000
    with pytest.raises(DataError, match=r"the download stopped after 6000 of 16000 bytes"):
        fetch_asset(address_asset(hub), tmp_path)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    manifest = fetch_asset(address_asset(hub), tmp_path)
    assert hub.gets("rows.jsonl") == ["", "bytes=6000-"]
    assert next(iter(manifest["files"].values()))["sha256"] == DIGEST
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("change", ["bytes", "no tag", "no ranges"])
def test_interrupted_download_starts_again_when_the_file_may_have_changed(
    tmp_path: Path, hub: Hub, change: str
) -> None:
    hub.tags = change != "no tag"
    hub.cut["/plain/rows.jsonl"] = 6000
    with pytest.raises(DataError, match="stopped after"):
        fetch_asset(address_asset(hub), tmp_path)
    now = BODY[::-1] if change == "bytes" else BODY
    hub.plain["/plain/rows.jsonl"], hub.ranges = now, change != "no ranges"
    manifest = fetch_asset(address_asset(hub), tmp_path)
    assert next(iter(manifest["files"].values()))["sha256"] == hashlib.sha256(now).hexdigest()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.jsonl", "file:///does/not/exist.jsonl"])
def test_download_names_an_unreachable_address(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match=f"{url}: cannot be downloaded"):
        fetch_asset(Asset("url", url), tmp_path)


def test_download_refuses_other_schemes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'ftp' addresses are not supported\. Allowed: http, https, file"):
        fetch_asset(Asset("url", "ftp://host/x.jsonl"), tmp_path)
