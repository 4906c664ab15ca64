"""Files of the hub: commits, the cache, and errors for missing files and tokens."""

from __future__ import annotations

from pathlib import Path

from rebend.config.models import HubCheckpoint
from rebend.data.assets import Asset, gguf_file, model_asset, model_folder
from tests.helpers.hub_assets import BODY, CARD, DIGEST, fetch_from_hub, write_manifest
from tests.helpers.hub_server import COMMIT, Hub


def test_model_is_fetched_at_the_commit_of_its_branch_without_second_weights(tmp_path: Path, hub: Hub) -> None:
    asset = Asset("model", "open/model", "main")
    manifest = fetch_from_hub(hub, tmp_path, asset)
    assert manifest["commit"] == COMMIT and manifest["licence"] == "apache-2.0" and manifest["gated"] is False
    assert sorted(manifest["files"]) == ["README.md", "config.json", "model.safetensors"]
    assert manifest["files"]["model.safetensors"]["sha256"] == DIGEST
    folder = model_folder(write_manifest(tmp_path, manifest))
    assert folder.name == COMMIT and (folder / "model.safetensors").read_bytes() == BODY
    n_requests = len(hub.gets("model.safetensors"))
    assert fetch_from_hub(hub, tmp_path, asset) == manifest
    assert len(hub.gets("model.safetensors")) == n_requests  # from the cache
    assert fetch_from_hub(hub, tmp_path, asset, manifest, HF_HUB_OFFLINE="1") == manifest


def test_locked_commit_is_fetched_after_the_branch_has_moved(tmp_path: Path, hub: Hub) -> None:
    asset = Asset("model", "open/model", "main")
    first = fetch_from_hub(hub, tmp_path / "a", asset)
    hub.commit = "f" * 40
    assert fetch_from_hub(hub, tmp_path / "b", asset, first)["commit"] == COMMIT
    assert fetch_from_hub(hub, tmp_path / "b", asset)["commit"] == "f" * 40


def test_missing_file_of_the_hub_is_named(tmp_path: Path, hub: Hub) -> None:
    message = fetch_from_hub(hub, tmp_path, Asset("dataset", "open/data", COMMIT, ("a/other.jsonl",)))
    assert message.startswith(f"hub dataset open/data, revision {COMMIT}: the hub refused the request")
    offline = fetch_from_hub(hub, tmp_path, Asset("model", "open/model", COMMIT), HF_HUB_OFFLINE="1")
    assert offline.endswith("not in the local cache, and HF_HUB_OFFLINE forbids the network")


def test_error_for_a_gated_repository_names_the_missing_token(tmp_path: Path, hub: Hub) -> None:
    asset = Asset("dataset", "gated/data", COMMIT, ("a/rows.jsonl",), gated=True)
    assert "no hub token was found (HF_TOKEN is not set" in fetch_from_hub(hub, tmp_path, asset)
    message = fetch_from_hub(hub, tmp_path, asset, HF_TOKEN="hf_bad")
    assert "Accept its licence at https://huggingface.co/datasets/gated/data" in message
    assert fetch_from_hub(hub, tmp_path, asset, HF_TOKEN="hf_good")["gated"] is True


def test_one_gguf_file_of_a_repository_is_fetched_with_its_licence(tmp_path: Path, hub: Hub) -> None:
    hub.repos["open/model"] = {
        "a-Q4_K_M.gguf": BODY,
        "a-Q8_0.gguf": BODY + BODY,
        "README.md": CARD,
        "config.json": b"{}",
    }
    asset = model_asset(HubCheckpoint(repo="open/model", revision=COMMIT, file="*Q4_K_M.gguf"))
    manifest = fetch_from_hub(hub, tmp_path, asset)
    assert sorted(manifest["files"]) == ["README.md", "a-Q4_K_M.gguf"] and manifest["licence"] == "apache-2.0"
    assert gguf_file(write_manifest(tmp_path, manifest)).read_bytes() == BODY
    assert asset.name != Asset("model", "open/model", COMMIT).name
    for file, number in (("*.gguf", 2), ("b.gguf", 0)):
        other = model_asset(HubCheckpoint(repo="open/model", revision=COMMIT, file=file))
        message = fetch_from_hub(hub, tmp_path / file[0], other)
        assert f"{number} files match '{file}', one is needed; its GGUF files: a-Q4_K_M.gguf, a-Q8_0.gguf" in message
