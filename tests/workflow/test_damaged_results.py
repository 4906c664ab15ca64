"""The next job that reads a result with a flipped bit fails and renames it; only that result is built again."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout
from tests.workflow.jobs import Job, copy_of

ADAPTED = "micro+micro_adapter"
# (damaged file, record of a job that reads it, rule that makes it)
READ = [
    ("results/data/micro_pairs.parquet", "results/adapters/micro/micro_adapter.run.json", "prepare_dataset"),
    ("results/models/micro/model.safetensors", f"results/models/{ADAPTED}.run.json", "train_tiny_model"),
    (
        "results/adapters/micro/micro_adapter/adapter_model.safetensors",
        f"results/models/{ADAPTED}.run.json",
        "train_adapter",
    ),
    (
        f"results/activations/{ADAPTED}/micro_rollouts/responses-00001-of-00002.parquet",
        f"results/activations/{ADAPTED}/micro_rollouts.run.json",
        "extract_activations",
    ),
    (
        f"results/rewards/{ADAPTED}/micro_rollouts/micro_reward.parquet",
        f"results/value_models/{ADAPTED}/micro_value.run.json",
        "label_rewards",
    ),
    (
        f"results/value_models/{ADAPTED}/micro_value/value.safetensors",
        f"results/responses/{ADAPTED}/micro_test/micro_climb.run.json",
        "train_value_model",
    ),
    (
        f"results/strengths/{ADAPTED}/micro_climb.json",
        f"results/responses/{ADAPTED}/micro_test/micro_climb.run.json",
        "choose_strength",
    ),
    (
        f"results/responses/{ADAPTED}/micro_test/micro_none.parquet",
        f"results/scores/reward/micro_reward/{ADAPTED}/micro_test/micro_none.run.json",
        "decode",
    ),
    (
        f"results/completions/{ADAPTED}/micro_safety/direct/micro_none.parquet",
        f"results/safety_verdicts/micro_truth/{ADAPTED}/micro_safety/direct/micro_none.run.json",
        "attack",
    ),
]


def flip_a_bit(file: Path) -> None:
    """Flip one bit, chosen by the file's name, and keep the file's modification time."""
    raw, status, rng = bytearray(file.read_bytes()), file.stat(), random.Random(file.name)
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    file.unlink()  # the file is a hard link to the built checkout's
    file.write_bytes(raw)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture(scope="module")
def copy(built: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return copy_of(built, tmp_path_factory.mktemp("damaged") / "copy")


@pytest.mark.parametrize(("damaged", "reader", "rule"), READ, ids=[read[2] for read in READ])
def test_job_that_reads_a_damaged_result_fails_and_renames_it(
    copy: Checkout, server: str, damaged: str, reader: str, rule: str
) -> None:
    job, file = Job(copy, reader, server), copy.folder / damaged
    whole = file.read_bytes()
    flip_a_bit(file)
    job.forget()
    status, output = job.run()
    assert status != 0
    assert re.search(rf"DataError: Checksum mismatch: {re.escape(damaged)} \(moved to .*damaged\)", output)
    assert "Run again to rebuild it and its dependents" in output
    assert not job.record.exists()
    result = next(path for path in (file, file.parent) if path.with_name(f"{path.name}.damaged").exists())
    assert not result.exists()
    result.with_name(f"{result.name}.damaged").rename(result)
    file.write_bytes(whole)
    status, output = job.run()
    assert status == 0, output
    assert job.digests() == job.facts["digests"]


def test_only_a_damaged_shard_is_built_again(built: Checkout, tmp_path: Path) -> None:
    copy = copy_of(built, tmp_path / "copy")
    folder = copy.folder / f"results/activations/{ADAPTED}/micro_rollouts"
    first, second = sorted(folder.glob("states-*.parquet"))
    kept, whole = first.stat().st_mtime_ns, second.read_bytes()
    flip_a_bit(second)
    target = f"results/value_models/{ADAPTED}/micro_value"
    failed = copy.snakemake(target, "--forcerun", "train_value_model")
    assert failed.returncode != 0
    assert f"{second.name} (moved to " in failed.stdout + failed.stderr
    again = copy.snakemake(target)
    assert again.returncode == 0, again.stdout + again.stderr
    assert second.read_bytes() == whole
    assert first.stat().st_mtime_ns == kept
    assert again.stdout.count("rule extract_activations:") + again.stderr.count("rule extract_activations:") == 1
    value = f"{target}/value.safetensors"
    assert (copy.folder / value).read_bytes() == (built.folder / value).read_bytes()
