"""Start of a run, with stand-ins for Snakemake's workflow and jobs; tests/workflow starts real runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rebend.pipeline.cost.work import PlannedJob
from rebend.pipeline.jobs.gpus import DEVICES
from rebend.pipeline.start import finished_samples, planned_jobs, planned_versions, register_gpus, unsigned_jobs


class Named(dict[str, Any]):
    """Values by key and by attribute; as a list, its keys."""

    def __getattr__(self, key: str) -> Any:
        return self[key]


def job(rule: str, **output: str) -> SimpleNamespace:
    params = Named(code="c", settings={"lr": 1}) if output else Named()
    return SimpleNamespace(
        rule=SimpleNamespace(name=rule), input=["i"], output=Named(output), params=params, resources={}
    )


def workflow(*jobs: Any, needed: str = "", noted: str = "", nodes: int | None = None, **limits: int) -> Any:
    return SimpleNamespace(
        dag=SimpleNamespace(jobs=jobs, needrun=lambda job: job.rule.name == needed),
        persistence=SimpleNamespace(has_metadata=lambda job: job.rule.name == noted),
        is_main_process=True,
        resource_settings=SimpleNamespace(nodes=nodes),
        global_resources=limits,
        register_resource=limits.__setitem__,
    )


def test_targets_are_no_planned_jobs() -> None:
    jobs = [job("all"), job("decode", out="o", record="r")]
    assert planned_jobs(jobs) == [PlannedJob("decode", {"lr": 1}, ["i"], ["out", "record"], 0)]


def test_only_jobs_with_a_record_have_a_planned_version() -> None:
    assert planned_versions([job("all"), job("decode", record="r")]) == {"r": ("c", {"lr": 1})}


def test_finished_samples_are_those_that_no_job_samples_again() -> None:
    names = {"sample_pairs": "pairs", "sample_chats": "chats", "decode": "hh"}
    jobs = [SimpleNamespace(**vars(job(rule)), wildcards=Named(dataset=name)) for rule, name in names.items()]
    assert finished_samples(workflow(*jobs)) == ["pairs", "chats"]
    assert finished_samples(workflow(*jobs, needed="sample_pairs")) == ["chats"]


def test_unsigned_jobs_are_finished_and_have_no_metadata() -> None:
    jobs = [job(rule, record="r") for rule in ("needed", "noted", "unsigned")]
    (unsigned,) = unsigned_jobs(workflow(*jobs, job("all"), needed="needed", noted="noted"))
    assert unsigned.rule.name == "unsigned"


@pytest.mark.parametrize(
    ("devices", "nodes", "limits", "registered"),
    [
        ("0,1", None, {}, {"gpu": 2}),
        ("", None, {}, {}),
        ("0,1", None, {"gpu": 1}, {"gpu": 1}),
        ("0,1", 100, {}, {}),
    ],
)
def test_gpus_are_registered_for_a_local_run_without_a_limit(
    devices: str, nodes: int | None, limits: dict, registered: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEVICES, devices)
    run = workflow(nodes=nodes, **limits)
    register_gpus(run)
    assert run.global_resources == registered
