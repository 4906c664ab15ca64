"""The shards of an activations folder are gathered, and a missing shard is named."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rebend.errors import DataError
from rebend.io.files import read_json
from rebend.pipeline.jobs.code_version import reached_modules
from rebend.recontrol.value_model.activation_store import MANIFEST, Activations
from tests.conftest import ROOT
from tests.helpers.extraction_parts import SETTINGS, extract, extract_shard, gather, shard_files


def test_gathering_reaches_no_decoding_code():
    """The code version of a stage covers the modules that its script reaches."""
    script = ROOT / "workflow/scripts/recontrol/gather_activations.py"
    assert not [name for name in reached_modules(script) if name.startswith(("rebend.generation", "rebend.models"))]


def test_files_of_another_number_of_shards_are_deleted(policy, tmp_path):
    extract(policy, tmp_path, SETTINGS.model_copy(update={"shards": 1}))
    second = extract(policy, tmp_path)
    names = [shard["file"] for shard in second.manifest["shards"]]
    assert sorted(path.name for path in second.directory.glob("states-*")) == names


def test_a_lost_shard_is_extracted_again_with_the_same_bytes(policy, extracted, tmp_path):
    extract(policy, tmp_path)
    lost = Path(shard_files(tmp_path, 1, 2).states)
    lost.unlink()
    with pytest.raises(DataError, match=f"{lost.name}: is missing; run again \\(only this file"):
        Activations(tmp_path / "out")
    with pytest.raises(DataError, match=lost.name):
        gather(tmp_path)
    extract_shard(policy, tmp_path, 1)
    assert lost.read_bytes() == (extracted.directory / lost.name).read_bytes()
    Activations(tmp_path / "out").verify()


def test_the_manifest_and_the_metadata_of_shards_name_model_layer_and_type(extracted):
    metadata = pq.read_schema(extracted.directory / extracted.manifest["shards"][0]["file"]).metadata
    assert metadata[b"dtype"] == b"float16"
    assert metadata[b"shape"] == b"[32]"
    assert metadata[b"fingerprint"] == b"fingerprint-0"
    assert metadata[b"layer"] == b"final"
    assert metadata[b"revision"] == b"0123abcd"
    manifest = read_json(extracted.directory / MANIFEST)
    assert (manifest["fingerprint"], manifest["layer"], manifest["dtype"]) == ("fingerprint-0", "final", "float16")
    assert manifest["revision"] == "0123abcd"
    for shard in manifest["shards"]:
        assert pq.read_metadata(extracted.directory / shard["file"]).num_rows == shard["rows"]
    extracted.verify()
