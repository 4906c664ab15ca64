"""Files are written completely or not at all; errors name damaged files and a full disk."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from rebend.errors import DataError, DiskError
from rebend.io.checkpoints import Checkpoints
from rebend.io.files import (
    read_json,
    read_parquet,
    sweep,
    whole_directory,
    whole_file,
    write_json,
    write_parquet,
)
from rebend.io.schemas import SCORES


def scores() -> pa.Table:
    rows = [{"row_id": "a", "score": 1.5, "not_scored": None}, {"row_id": "b", "score": None, "not_scored": "empty"}]
    return pa.Table.from_pylist(rows, schema=SCORES)


def test_parquet_is_read_back_with_its_metadata(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t.parquet", scores(), {"reward": "r"})
    table = read_parquet(tmp_path / "t.parquet", SCORES)
    assert table.equals(scores())
    assert table.schema.metadata == {b"reward": b"r"}


def test_write_parquet_is_deterministic(tmp_path: Path) -> None:
    write_parquet(tmp_path / "1.parquet", scores())
    write_parquet(tmp_path / "2.parquet", scores())
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_whole_file_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    file = tmp_path / "f.txt"
    file.write_text("old")
    with pytest.raises(OSError, match="it broke"), whole_file(file) as temporary:
        temporary.write_text("half")
        raise OSError("it broke")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f.txt"]


def test_whole_directory_keeps_the_old_folder_when_the_block_fails(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "x").write_text("old")
    with pytest.raises(RuntimeError), whole_directory(folder) as temporary:
        (temporary / "x").write_text("half")
        raise RuntimeError
    assert (folder / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_whole_directory_replaces_all_files(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "gone").write_text("old")
    with whole_directory(folder) as temporary:
        (temporary / "new").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_read_parquet_names_a_truncated_file(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    write_parquet(file, scores())
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"t\.parquet: not a readable Parquet file"):
        read_parquet(file)


def test_read_parquet_names_a_missing_column_and_a_wrong_type(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    write_parquet(file, scores().drop_columns("score"))
    with pytest.raises(DataError, match="column 'score' is missing"):
        read_parquet(file, SCORES)
    write_parquet(file, pa.table({"row_id": ["a"], "score": ["1"], "not_scored": [""]}))
    with pytest.raises(DataError, match="column 'score' is string, expected double"):
        read_parquet(file, SCORES)


def test_json_is_sorted_and_damage_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.json: not a readable JSON file"):
        read_json(tmp_path / "a.json")


def test_files_are_flushed_before_they_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a loss of power, a name must not exist without its contents."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        assert not (tmp_path / "f").exists()
        assert not (tmp_path / "d").exists()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with whole_directory(tmp_path / "d") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "x").write_text("x")
    (tmp_path / "d").rename(tmp_path / "e")
    with whole_file(tmp_path / "f") as temporary:
        temporary.write_text("f")
    assert synced[0] == "x"
    assert synced[1].startswith(".f.")


EXCHANGER = """
import sys
from pathlib import Path
from rebend.io.files import whole_directory
number = 0
while True:
    with whole_directory(sys.argv[1]) as folder:
        for name in "ab":
            (folder / name).write_text(str(number))
    number += 1
"""


@pytest.mark.parametrize("seed", range(3))
def test_folder_exists_and_is_complete_at_every_moment_while_it_is_replaced(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "d"
    process = subprocess.Popen([sys.executable, "-c", EXCHANGER, str(folder)])
    while not folder.exists():
        time.sleep(0.01)
    end = time.monotonic() + random.Random(seed).uniform(0.2, 0.6)
    while time.monotonic() < end:
        assert folder.is_dir()
    process.kill()
    process.wait()
    assert (folder / "a").read_text() == (folder / "b").read_text()
    sweep(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 200 kB and return its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True)
    if mount.returncode:
        pytest.skip(f"cannot mount a small file system: {mount.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


NOISE = torch.arange(100_000, dtype=torch.float32)
WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(NOISE.numpy().tobytes()),
    "safetensors": lambda path: save_file({"x": NOISE}, path),
    "parquet": lambda path: pq.write_table(pa.table({"x": NOISE.numpy()}), path, compression="none"),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("whole", [whole_file, whole_directory])
def test_full_disk_is_named_and_keeps_only_the_old_file(small_disk: Path, kind: str, whole: Callable) -> None:
    target = small_disk / "t"
    with whole(target) as temporary:
        (temporary / "x" if whole is whole_directory else temporary).write_text("old")
    with pytest.raises(DiskError, match=r"disk/t: cannot be written, the disk is full.*of 0.2 MB are free.*Make room"):  # noqa: SIM117
        with whole(target) as temporary:
            WRITERS[kind](temporary / "x" if whole is whole_directory else temporary)
    assert (target / "x" if whole is whole_directory else target).read_text() == "old"
    assert [path.name for path in small_disk.iterdir()] == ["t"]


def test_checkpoint_on_a_full_disk_keeps_the_last_state(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk / "c")
    checkpoints.save({"step": 1})
    with pytest.raises(DiskError, match=r"state.pt: cannot be written, the disk is full"):
        checkpoints.save({"step": 2, "weights": NOISE})
    assert checkpoints.load() == {"step": 1}


def test_other_errors_are_not_reported_as_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), whole_file(tmp_path / "f"):
        raise PermissionError(13, "Permission denied")
