"""DeepSpeed's training of an adapter on several GPUs is one job on one node."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.lab import Lab, missing
from tests.workflow.checkout import MICRO, Checkout

CHANGE = {
    "models": {"micro": {"resources": {"gpu": 1, "mem_mb": 4000, "runtime": 20}}},
    "adapters": {"micro_adapter": {"zero": 1, "ranks": 2, "micro_batch": 1}},
}


@pytest.mark.chaos
def test_ranks_have_a_gpu_each_on_one_node(tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(reason)
    with Lab.running(tmp_path / "slurm", gpus_per_node=2) as lab:
        cluster = Cluster(lab, Checkout.make(tmp_path / "cluster"), f"{MICRO}/study.yaml", CHANGE)
        try:
            run = cluster.start("results/adapters/micro/micro_adapter")
            assert run.wait(600) == 0, run.output()[-3000:]
        finally:
            cluster.end()
        adapters = [job for job in lab.jobs() if job.comment.startswith("rule_train_adapter")]
        job_runs = [run for run in lab.job_runs() if run.job == adapters[0].job]
    assert [(job.gpus, job.partition, job.state) for job in adapters] == [(2, "gpu", "COMPLETED")]
    assert [run.node for run in job_runs] in (["n1"], ["n2"])
    assert (cluster.checkout.folder / "results/adapters/micro/micro_adapter/adapter_model.safetensors").is_file()
