"""Start a run: check its jobs, print or enforce the budget, write the plan of its code and settings.

`workflow/rules/pipeline.smk` calls `register_gpus` while Snakemake parses and `start_run` before the first job.
`workflow` and `job` are Snakemake's objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from rebend.errors import ConfigError, RebendError
from rebend.pipeline.checks.before_run import check_accounts, check_before_fetch, check_before_jobs, check_gpus
from rebend.pipeline.checks.datasets import too_few_mistakes
from rebend.pipeline.checks.old_results import old_results_notice
from rebend.pipeline.cost.estimate import check_budget, print_budget
from rebend.pipeline.cost.judges import judge_outlook
from rebend.pipeline.cost.work import PlannedJob
from rebend.pipeline.graph import paths
from rebend.pipeline.graph.plan import Plan
from rebend.pipeline.jobs.benchmarks import measure_workers
from rebend.pipeline.jobs.gpus import lend, visible_gpus
from rebend.pipeline.jobs.planned_version import write_plan
from rebend.pipeline.jobs.signals import end_jobs_on_signals
from rebend.pipeline.jobs.slurm_orphans import refuse_orphans, refuse_unlike
from rebend.pipeline.jobs.warm_start import start_server

_FETCHING = {"fetch", "fetch_asset"}  # these rules need neither judges' keys nor local files
_TARGETS = {"all", "fetch", "plan"}  # these rules run no script
_SAMPLING = {"sample_pairs", "sample_chats"}
_MIN_WARM_JOBS = 9  # with fewer jobs, starting the server takes longer than it saves

_kept: list[
    Any
] = []  # server and folder of the run end when their objects are deleted, at the latest with this process


def register_gpus(workflow: Any) -> None:
    """Limit the GPU jobs that a local run starts at once to the GPUs of this machine.

    A limit on the command line (`--resources gpu=1`) has priority. Jobs of a cluster get no limit.
    """
    is_local = workflow.is_main_process and workflow.resource_settings.nodes is None  # nodes of a cluster
    if is_local and "gpu" not in workflow.global_resources and (gpus := visible_gpus()):
        workflow.register_resource("gpu", len(gpus))


def start_run(workflow: Any, plan: Plan, texts: str) -> None:
    """Check a run before its first job, and write the plan file of its jobs.

    `texts` is the digest of all source files (see `write_plan`). With the target `plan`, it prints the estimate and
    raises `SystemExit` with status 0. Raises `WorkflowError` for mistakes, and for a run over budget.
    """
    jobs = list(workflow.dag.needrun_jobs())
    unsigned = unsigned_jobs(workflow)
    try:
        if any(job.rule.name == "plan" for job in jobs):
            print_budget(plan, planned_jobs(jobs))
            raise SystemExit(0)
        refuse_mistakes(workflow, plan, jobs, unsigned)
    except RebendError as error:
        raise WorkflowError(str(error)) from error
    for job in unsigned:
        workflow.async_run(workflow.persistence.finished(job))
    for line in [*judge_outlook(plan), old_results_notice(paths.ROOT)]:
        if line:
            logger.info(line)
    write_plan(planned_versions(jobs), texts, f"{paths.PROGRESS}/plans")
    if workflow.local_exec:
        measures = measure_workers()  # before the server, which inherits the environment
        server = start_server() if len(jobs) >= _MIN_WARM_JOBS else None
        _kept.extend([server, measures])
        end_jobs_on_signals(server.pid if server else None)


def planned_jobs(jobs: Iterable[Any]) -> list[PlannedJob]:
    """Return the jobs that do work, in the form that the estimate reads."""
    return [
        PlannedJob(
            job.rule.name,
            job.params.get("settings", {}),
            list(job.input),
            list(job.output),
            job.resources.get("gpu", 0),
        )
        for job in jobs
        if job.rule.name not in _TARGETS
    ]


def planned_versions(jobs: Iterable[Any]) -> dict[str, tuple[str, Any]]:
    """Return record → (code version, settings) of the jobs that write a record."""
    return {job.output.record: (job.params.code, job.params.settings) for job in jobs if job.output.get("record")}


def unsigned_jobs(workflow: Any) -> list[Any]:
    """Return jobs that finished after their Snakemake was killed: Snakemake has no metadata of their results."""
    return [
        job
        for job in workflow.dag.jobs
        if job.output.get("record") and not workflow.dag.needrun(job) and not workflow.persistence.has_metadata(job)
    ]


def finished_samples(workflow: Any) -> list[str]:
    """Return the sampled data sets of this run that are finished and not sampled again."""
    dag = workflow.dag
    sampled = [job for job in dag.jobs if job.rule.name in _SAMPLING and not dag.needrun(job)]
    return [job.wildcards.dataset for job in sampled]


def refuse_mistakes(workflow: Any, plan: Plan, jobs: Sequence[Any], unsigned: Sequence[Any]) -> None:
    """Raise `RebendError` for mistakes that would make the run fail, and for a run over budget."""
    refuse_orphans(Path.cwd())
    refuse_unlike(planned_versions(unsigned))
    if {job.rule.name for job in jobs} <= _FETCHING:
        check_before_fetch(plan)
    else:
        check_before_jobs(plan)
        if mistakes := list(too_few_mistakes(plan.config.catalogue, finished_samples(workflow))):
            raise ConfigError("\n  " + "\n  ".join(mistakes))
    check_budget(plan, planned_jobs(jobs))
    if workflow.local_exec:
        gpus = visible_gpus()
        check_gpus(plan, len(gpus))
        lend(gpus)
    else:
        check_accounts({job.resources.get("slurm_account") for job in jobs} - {None})
