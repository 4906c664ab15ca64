"""A result that differs from the files that its stage wrote is named and moved aside."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebend.errors import DataError
from rebend.io.files import write_json
from rebend.pipeline.jobs.integrity import check, digests_of, recorded_digests


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A file, a folder and a shard with their records, as stages write them."""
    monkeypatch.chdir(tmp_path)
    Path("scores.parquet").write_bytes(b"scores")
    Path("model/deep").mkdir(parents=True)
    Path("model/deep/weights").write_bytes(b"weights")
    Path("model/config").write_bytes(b"config")
    Path("shards").mkdir()
    Path("shards/states-0.parquet").write_bytes(b"states")
    Path("shards/responses-0.parquet").write_bytes(b"responses")
    Path("shards/manifest.json").write_bytes(b"{}")
    shard = ["shards/states-0.parquet", "shards/responses-0.parquet"]
    write_json("scores.run.json", {"digests": digests_of(["scores.parquet"])})
    write_json("model.run.json", {"digests": digests_of(["model"])})
    write_json("shards/states-0.run.json", {"digests": digests_of(shard)})
    write_json("shards.run.json", {"digests": digests_of(["shards/manifest.json"])})
    return ["scores.parquet", "model", *shard, "shards/manifest.json"]


def test_recorded_digests_reads_records_of_all_kinds_of_results(results: list[str]) -> None:
    known = recorded_digests(results)
    assert set(known) == {
        "scores.parquet",
        "model/config",
        "model/deep/weights",
        "shards/states-0.parquet",
        "shards/responses-0.parquet",
        "shards/manifest.json",
    }
    check(results, known)


@pytest.mark.parametrize(
    ("file", "aside"),
    [
        ("scores.parquet", "scores.parquet"),
        ("model/deep/weights", "model"),
        ("shards/responses-0.parquet", "shards/responses-0.parquet"),
        ("shards/manifest.json", "shards/manifest.json"),
    ],
)
def test_result_with_a_flipped_bit_is_named_and_moved_aside(results: list[str], file: str, aside: str) -> None:
    raw = bytearray(Path(file).read_bytes())
    raw[0] ^= 1
    Path(file).write_bytes(raw)
    with pytest.raises(DataError, match=f"Checksum mismatch: {file} .*{aside}.damaged.*Run again to rebuild it"):
        check(results, recorded_digests(results))
    assert [name for name in results if not Path(name).exists()] == [aside]
    assert Path(f"{aside}.damaged").exists()


def test_missing_file_of_a_folder_is_named(results: list[str]) -> None:
    Path("model/deep/weights").unlink()
    with pytest.raises(DataError, match="model/deep/weights"):
        check(results, recorded_digests(results))


def test_files_without_digests_are_not_checked(results: list[str]) -> None:
    Path("mine.jsonl").write_text("{}")
    write_json("scores.run.json", {"stage": "of an older version"})
    known = recorded_digests(["mine.jsonl", "scores.parquet"])
    assert known == {}
    check(["mine.jsonl", "scores.parquet"], known)


def test_newly_damaged_result_replaces_the_one_moved_aside_before(results: list[str]) -> None:
    for content in (b"one", b"two"):
        Path("model").mkdir(exist_ok=True)
        Path("model/config").write_bytes(content)
        with pytest.raises(DataError, match="model"):
            check(["model"], recorded_digests(["model"]))
    assert Path("model.damaged/config").read_bytes() == b"two"
