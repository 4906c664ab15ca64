"""Training on several ranks: DeepSpeed on two processes, started as in the job of Snakemake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from rebend.errors import ModelError
from rebend.io.files import read_parquet, write_json, write_parquet
from rebend.repbend.launch import TrainingJob, run_training_job
from tests.helpers.training_parts import make_base, settings, tables

pytest.importorskip("deepspeed", reason="several ranks need DeepSpeed")
WRAPPER = "rebend.pipeline.jobs.rank"  # as the stage's script passes it
CONFIGS = Path(__file__).parents[3] / "config" / "deepspeed"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    paths = {"base": str(make_base(folder / "base"))}
    for name, table in zip(("examples", "paired_examples", "retain_chats"), tables(), strict=True):
        paths[name] = str(folder / f"{name}.parquet")
        write_parquet(paths[name], table)
    return paths


def job(inputs: dict[str, str], folder: Path, *, ranks: int = 1, stage: int = 0, **changes: Any) -> TrainingJob:
    adapter = settings(batch_size=4, micro_batch=2, **changes).model_dump()
    zero = json.loads((CONFIGS / f"zero{stage}.json").read_text()) if stage else None
    if zero and stage == 3:
        zero["zero_optimization"]["stage3_param_persistence_threshold"] = 0  # partition small weights too
    out, progress = str(folder / "adapter"), str(folder / "progress")
    return TrainingJob(**inputs, out=out, progress=progress, dtype="float32", adapter=adapter, ranks=ranks, zero=zero)


def losses(adapter: str | Path) -> list[float]:
    return read_parquet(Path(adapter) / "metrics.parquet")["total"].to_pylist()


@pytest.fixture(scope="module")
def alone(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter trained in one process, without DeepSpeed."""
    done = job(inputs, tmp_path_factory.mktemp("alone"))
    run_training_job(done)
    return Path(done.out)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_ranks_train_what_one_process_trains(
    inputs: dict[str, str], alone: Path, tmp_path: Path, stage: int
) -> None:
    facts = run_training_job(job(inputs, tmp_path, ranks=2, stage=stage), wrapper=WRAPPER)
    assert losses(tmp_path / "adapter") == pytest.approx(losses(alone), rel=1e-4)
    assert facts["last"]["grad_norm"] == pytest.approx(
        read_parquet(alone / "metrics.parquet")["grad_norm"].to_pylist()[-1], rel=1e-3
    )
    ours, theirs = ((folder / "adapter_model.safetensors").stat().st_size for folder in (tmp_path / "adapter", alone))
    assert ours == theirs  # whole under ZeRO-3 too, and in the same layout


def test_ranks_round_matrix_products_like_one_process(inputs: dict[str, str], tmp_path: Path) -> None:
    """DeepSpeed switches off an autocast that was begun outside its own forward."""
    changes: dict[str, Any] = {"mixed_precision": "bfloat16", "max_step": 2, "lora_dropout": 0.0}
    found = []
    for name, where in (("alone", {}), ("ranks", {"ranks": 2, "stage": 3})):
        run_training_job(job(inputs, tmp_path / name, **where, **changes))
        found.append(losses(tmp_path / name / "adapter"))
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_stopped_ranks_resume_with_another_number_of_ranks(inputs: dict[str, str], alone: Path, tmp_path: Path) -> None:
    first = job(inputs, tmp_path, ranks=2, stage=2, max_step=400)
    write_json(tmp_path / "job.json", asdict(first))
    code = "import sys, json; from rebend.repbend.launch import TrainingJob, run_training_job"
    code += "; run_training_job(TrainingJob(**json.load(open(sys.argv[1]))))"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "job.json")], stderr=subprocess.PIPE)
    assert process.stderr is not None
    output = b""
    while b"train_adapter:" not in output:  # until the first steps
        output += os.read(process.stderr.fileno(), 4096)
    time.sleep(1.0)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert (Path(first.progress) / "state.pt").exists()
    assert not Path(first.out).exists()
    import torch

    done = len(torch.load(Path(first.progress) / "state.pt", weights_only=False)["metrics"])
    assert 0 < done < 400
    last = job(inputs, tmp_path, ranks=1, stage=3, max_step=done + 3)
    run_training_job(last)
    undisturbed = job(inputs, tmp_path / "other", max_step=done + 3)
    run_training_job(undisturbed)
    # Rounding differences grow with the steps; a wrong moment or weight would show in the first steps.
    resumed, expected = losses(last.out)[done:], losses(undisturbed.out)[done:]
    assert resumed == pytest.approx(expected, rel=0.05 if done > 20 else 1e-3)


def test_failed_rank_ends_the_job_with_an_error(inputs: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="2 ranks ended with status"):
        run_training_job(job({**inputs, "base": str(tmp_path / "nowhere")}, tmp_path, ranks=2, stage=1))
    assert not (tmp_path / "adapter").exists()


def test_rank_leaves_its_process_group_before_it_ends(inputs: dict[str, str], tmp_path: Path) -> None:
    """Otherwise Gloo's threads may abort a finished rank (observed once in some hundred runs)."""
    write_json(tmp_path / "job.json", asdict(job(inputs, tmp_path, ranks=1, stage=2)))
    code = """
        import json, sys
        import torch
        from rebend.repbend.launch import TrainingJob
        TrainingJob(**json.load(open(sys.argv[1]))).run()
        sys.exit("still in a process group" if torch.distributed.is_initialized() else 0)
    """
    launcher = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    environment = {**os.environ, **launcher, "DS_ACCELERATOR": "cpu"}
    rank = subprocess.run(
        [sys.executable, "-c", dedent(code), str(tmp_path / "job.json")], env=environment, timeout=300
    )
    assert rank.returncode == 0
    assert losses(tmp_path / "adapter")
