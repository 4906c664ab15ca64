"""What is fetched from a hub and from addresses (a small local server answers as the real ones): whole, and told of."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rebend.config.datasets import DataSource
from rebend.data.asset_lock import keep_in_lock, lock_mistakes, read_lock
from rebend.data.assets import Asset, asset_files, model_folder, source_asset, source_file
from rebend.data.fetch import fetch_asset
from rebend.errors import DataError
from rebend.io.files import write_json
from tests.helpers.hub_server import COMMIT, Hub, serving

BODY = b'{"prompt": "x"}\n' * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()
CARD = b"---\nlicense: apache-2.0\n---\n# A model\n"
MODEL = {"config.json": b"{}", "model.safetensors": BODY, "README.md": CARD, "old/weights.bin": b"twice"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as served:
        rows = {"a/rows.jsonl": BODY, "b/rows.jsonl": BODY[:160]}
        served.repos = {"open/model": MODEL, "datasets/open/data": rows, "datasets/gated/data": rows}
        served.gated = {"datasets/gated/data"}
        served.plain = {"/plain/rows.jsonl": BODY}
        yield served


def address(hub: Hub, **changes: Any) -> Asset:
    return Asset("url", f"{hub.url}/plain/rows.jsonl", **changes)


def from_hub(hub: Hub, home: Path, asset: Asset, locked: Any = None, **environment: str) -> Any:
    """Fetch in a process of its own, for the hub's address is read when its library is imported: manifest, or error."""
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


def written(folder: Path, manifest: dict[str, Any]) -> str:
    path = folder / f"{manifest['asset']}.json"
    write_json(path, manifest)
    return str(path)


def test_what_lies_behind_an_address_comes_whole_and_is_told_of(tmp_path: Path, hub: Hub) -> None:
    asset = address(hub)
    manifest = fetch_asset(asset, tmp_path)
    (name,) = manifest["files"]
    assert name.endswith("-rows.jsonl") and manifest["files"][name] == {"size": 16000, "sha256": DIGEST}
    assert manifest["size"] == 16000 and manifest["commit"] is None and not manifest["gated"]
    source = DataSource(url=asset.where)
    found = source_file(source, [written(tmp_path, manifest)], tmp_path)
    assert found is not None and found.read_bytes() == BODY
    assert fetch_asset(asset, tmp_path) == manifest


def test_a_file_address_is_checked_against_its_digest_and_not_fetched_twice(tmp_path: Path) -> None:
    origin = tmp_path / "a b.jsonl.gz"
    origin.write_bytes(BODY)
    good = Asset("url", origin.as_uri(), sha256=DIGEST.upper())
    manifest = fetch_asset(good, tmp_path / "got")
    assert next(iter(manifest["files"])).endswith("a b.jsonl.gz")
    origin.unlink()
    assert fetch_asset(good, tmp_path / "got") == manifest


def test_another_digest_than_the_configured_one_is_refused_and_nothing_is_left(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(DataError, match=f"its SHA-256 is {DIGEST}, but the configuration says 00ff"):
        fetch_asset(address(hub, sha256="00ff"), tmp_path / "got")
    assert list((tmp_path / "got").iterdir()) == []


def test_a_download_that_breaks_off_goes_on_where_it_was(tmp_path: Path, hub: Hub) -> None:
    hub.cut["/plain/rows.jsonl"] = 6000
    with pytest.raises(DataError, match=r"the download broke off after 6000 of 16000 bytes"):
        fetch_asset(address(hub), tmp_path)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    manifest = fetch_asset(address(hub), tmp_path)
    assert hub.gets("rows.jsonl") == ["", "bytes=6000-"]
    assert next(iter(manifest["files"].values()))["sha256"] == DIGEST
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("change", ["bytes", "no tag", "no ranges"])
def test_a_rest_that_may_be_of_another_file_is_not_put_behind_the_beginning(
    tmp_path: Path, hub: Hub, change: str
) -> None:
    hub.tags = change != "no tag"
    hub.cut["/plain/rows.jsonl"] = 6000
    with pytest.raises(DataError, match="broke off"):
        fetch_asset(address(hub), tmp_path)
    now = BODY[::-1] if change == "bytes" else BODY
    hub.plain["/plain/rows.jsonl"], hub.ranges = now, change != "no ranges"
    manifest = fetch_asset(address(hub), tmp_path)
    assert next(iter(manifest["files"].values()))["sha256"] == hashlib.sha256(now).hexdigest()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.jsonl", "file:///does/not/exist.jsonl"])
def test_an_address_that_does_not_answer_is_named(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match=f"{url}: cannot be downloaded"):
        fetch_asset(Asset("url", url), tmp_path)


def test_other_addresses_than_http_and_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'ftp' addresses are not read\. Allowed: http, https, file"):
        fetch_asset(Asset("url", "ftp://host/x.jsonl"), tmp_path)


def test_a_model_comes_at_the_commit_of_its_branch_without_second_weights(tmp_path: Path, hub: Hub) -> None:
    asset = Asset("model", "open/model", "main")
    manifest = from_hub(hub, tmp_path, asset)
    assert manifest["commit"] == COMMIT and manifest["licence"] == "apache-2.0" and manifest["gated"] is False
    assert sorted(manifest["files"]) == ["README.md", "config.json", "model.safetensors"]
    assert manifest["files"]["model.safetensors"]["sha256"] == DIGEST
    folder = model_folder(written(tmp_path, manifest))
    assert folder.name == COMMIT and (folder / "model.safetensors").read_bytes() == BODY
    asked = len(hub.gets("model.safetensors"))
    assert from_hub(hub, tmp_path, asset) == manifest
    assert len(hub.gets("model.safetensors")) == asked  # from the cache
    assert from_hub(hub, tmp_path, asset, manifest, HF_HUB_OFFLINE="1") == manifest


def test_a_locked_commit_is_fetched_though_the_branch_has_moved(tmp_path: Path, hub: Hub) -> None:
    asset = Asset("model", "open/model", "main")
    first = from_hub(hub, tmp_path / "a", asset)
    hub.commit = "f" * 40
    assert from_hub(hub, tmp_path / "b", asset, first)["commit"] == COMMIT
    assert from_hub(hub, tmp_path / "b", asset)["commit"] == "f" * 40


def test_weights_that_were_damaged_in_the_cache_are_named(tmp_path: Path, hub: Hub) -> None:
    asset = Asset("model", "open/model", COMMIT)
    manifest = from_hub(hub, tmp_path, asset)
    blob = (Path(manifest["folder"]) / "model.safetensors").resolve()
    blob.write_bytes(b"y" + BODY[1:])
    said = from_hub(hub, tmp_path, asset)
    assert str(blob) in said and "is damaged" in said


def test_files_of_a_data_set_are_joined_in_their_order(tmp_path: Path, hub: Hub) -> None:
    source = DataSource(
        hub={"repo": "open/data", "revision": COMMIT, "file": ["b/rows.jsonl", "a/rows.jsonl"]}  # type: ignore[arg-type]
    )
    asset = source_asset(source)
    assert asset is not None
    manifest = from_hub(hub, tmp_path, asset)
    assert manifest["licence"] is None
    found = source_file(source, [written(tmp_path, manifest)], tmp_path / "joined")
    assert found is not None and found.read_bytes() == BODY[:160] + BODY


@pytest.mark.parametrize("files", [[], ["a/x.jsonl", "b/y.jsonl"], ["a/x.parquet", "b/x.parquet"]])
def test_hub_files_that_cannot_be_joined_are_refused(files: list[str]) -> None:
    with pytest.raises(ValueError, match=r"`file` names no file|joined only if"):
        DataSource(hub={"repo": "open/data", "revision": COMMIT, "file": files})  # type: ignore[arg-type]


def test_what_is_not_on_the_hub_is_named(tmp_path: Path, hub: Hub) -> None:
    said = from_hub(hub, tmp_path, Asset("dataset", "open/data", COMMIT, ("a/other.jsonl",)))
    assert said.startswith(f"hub dataset open/data, revision {COMMIT}: the hub refused it")
    offline = from_hub(hub, tmp_path, Asset("model", "open/model", COMMIT), HF_HUB_OFFLINE="1")
    assert offline.endswith("not in the local cache, and HF_HUB_OFFLINE forbids the network")


def test_a_gated_repository_says_which_token_is_missing(tmp_path: Path, hub: Hub) -> None:
    asset = Asset("dataset", "gated/data", COMMIT, ("a/rows.jsonl",), gated=True)
    assert "no hub token was found (HF_TOKEN is not set" in from_hub(hub, tmp_path, asset)
    said = from_hub(hub, tmp_path, asset, HF_TOKEN="hf_bad")
    assert "Accept its licence at https://huggingface.co/datasets/gated/data" in said
    assert from_hub(hub, tmp_path, asset, HF_TOKEN="hf_good")["gated"] is True


def test_a_file_that_is_gone_or_cut_since_is_named(tmp_path: Path, hub: Hub) -> None:
    manifest = written(tmp_path, fetch_asset(address(hub), tmp_path / "files"))
    ((_, path),) = asset_files(manifest).items()
    path.write_bytes(b"x")
    with pytest.raises(DataError, match="has 1 bytes, not 16000; fetch it again"):
        asset_files(manifest)
    path.unlink()
    with pytest.raises(DataError, match="is no longer there; fetch it again: `snakemake fetch"):
        asset_files(manifest)


def test_a_source_that_was_never_fetched_says_how(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not fetched yet, and this job has no network; run `snakemake fetch`"):
        source_file(DataSource(url="https://host/x.jsonl"), [], tmp_path)


def test_a_local_path_is_itself_and_the_tiny_world_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(BODY)
    assert source_file(DataSource(local=str(path)), [], tmp_path) == path
    with pytest.raises(DataError, match="there is no such file"):
        source_file(DataSource(local=str(tmp_path / "b.jsonl")), [], tmp_path)
    world = DataSource(world={"part": "test", "rows": 3})  # type: ignore[arg-type]
    assert source_file(world, [], tmp_path) is None


def test_an_assets_name_holds_no_path_and_differs_with_what_is_asked_for() -> None:
    odd = Asset("model", "../../etc/passwd", "main")
    assert "/" not in odd.name and ".." not in odd.name
    names = {
        Asset("model", "a/b", "main").name,
        Asset("model", "a/b", "1" * 40).name,
        Asset("model", "a-b", "main").name,
    }
    assert len(names) == 3
    assert Asset("model", "a/b", "main", gated=True).name in names  # the same bytes


def test_the_lock_file_is_sorted_and_the_same_whatever_came_first(tmp_path: Path, hub: Hub) -> None:
    hub.plain["/plain/other.csv"] = b"a,b\n"
    manifests = [fetch_asset(Asset("url", f"{hub.url}/plain/{name}"), tmp_path) for name in ("rows.jsonl", "other.csv")]
    for lock, order in ((tmp_path / "one.json", manifests), (tmp_path / "two.json", manifests[::-1])):
        for manifest in order:
            keep_in_lock(lock, manifest)
            keep_in_lock(lock, manifest)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert str(tmp_path) not in (tmp_path / "one.json").read_text()
    assert list(read_lock(tmp_path / "one.json")) == sorted(manifest["asset"] for manifest in manifests)


def test_other_bytes_for_the_same_asset_are_refused_and_named(tmp_path: Path, hub: Hub) -> None:
    lock = tmp_path / "assets.lock.json"
    first = fetch_asset(address(hub), tmp_path)
    keep_in_lock(lock, first)
    before = lock.read_bytes()
    hub.plain["/plain/rows.jsonl"] = BODY + b"{}\n"
    other = fetch_asset(address(hub), tmp_path / "again", read_lock(lock)[first["asset"]])
    with pytest.raises(DataError, match=rf"rows\.jsonl: other bytes than those in .*locked is {DIGEST}.*delete the"):
        keep_in_lock(lock, other)
    assert lock.read_bytes() == before
    assert lock_mistakes(lock, [written(tmp_path, first), tmp_path / "none.json"]) == []
    assert len(lock_mistakes(lock, [written(tmp_path / "again", other)])) == 1


def test_many_processes_keep_their_entries_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom rebend.data.asset_lock import keep_in_lock\n"
        "for i in range(5):\n"
        "    manifest = {'asset': f'{sys.argv[2]}-{i}', 'commit': None, 'digest': '1', 'files': {}}\n"
        "    keep_in_lock(sys.argv[1], manifest)\n"
    )
    lock = str(tmp_path / "lock.json")
    jobs = [subprocess.Popen([sys.executable, "-c", code, lock, str(number)]) for number in range(4)]
    assert [job.wait(timeout=60) for job in jobs] == [0] * 4
    assert len(read_lock(lock)) == 20
