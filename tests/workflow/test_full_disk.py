"""On a full disk a stage fails with one message and leaves no partial file; with free space it finishes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout
from tests.workflow.jobs import Job, copy_of

MESSAGE = ": cannot be written, the disk is full or a quota is used up"
JOBS = [
    "results/models/micro.run.json",
    "results/adapters/micro/micro_adapter.run.json",
    "results/models/micro+micro_adapter.run.json",
    "results/activations/micro+micro_adapter/micro_rollouts/states-00000-of-00002.run.json",
    "results/value_models/micro+micro_adapter/micro_value.run.json",
    "results/responses/micro+micro_adapter/micro_test/micro_climb.run.json",
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a file system of a given size, or resizes it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def size(size: str) -> Path:
        nonlocal mounted
        options = f"{'remount,' if mounted else ''}size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode and not mounted:
            pytest.skip(f"a small file system cannot be made here: {done.stderr.strip()}")
        mounted = True
        return folder

    yield size
    if mounted:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def full(folder: Path, left: int) -> Iterator[None]:
    """Inside the block, `left` bytes are free in a file system."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            stream.truncate(stream.tell() - left)
    yield
    ballast.unlink()


@pytest.mark.parametrize(("record", "left"), [*((record, 4096) for record in JOBS), (JOBS[0], 40960)])
def test_stage_on_a_full_disk_leaves_no_partial_file_and_finishes_later(
    built: Checkout, server: str, disk: Callable[[str], Path], record: str, left: int
) -> None:
    copy = copy_of(built, disk("100m") / "copy")
    job = Job(copy, record, server)
    job.forget()
    with full(disk("100m"), left):
        status, output = job.run()
        assert status != 0
        assert MESSAGE in output, output
        assert not job.record.exists()
        assert not list(copy.folder.glob("results/**/.*.part"))
        assert all(not (copy.folder / path).exists() for path in job.facts["digests"]), output
    status, output = job.run()
    assert status == 0, output
    assert job.digests() == job.facts["digests"]


def test_snakemake_prints_the_message_and_finishes_later(checkout: Checkout, disk: Callable[[str], Path]) -> None:
    (checkout.folder / "results").symlink_to(disk("100k"))
    done = checkout.snakemake("results/models/micro")
    assert done.returncode != 0
    assert f"results/models/micro{MESSAGE}" in done.stdout + done.stderr
    assert "of 0.1 MB are free" in done.stdout + done.stderr
    disk("100m")
    again = checkout.snakemake("results/models/micro")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "prepare_dataset" not in again.stdout + again.stderr
