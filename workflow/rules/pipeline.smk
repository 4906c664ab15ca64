# Before the first job: refuse mistakes and runs over budget, print the estimate, write the plan.
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from rebend.errors import RebendError
from rebend.pipeline.cost.work import PlannedJob
from rebend.pipeline.jobs.gpus import lend, visible_gpus
from rebend.pipeline.jobs.slurm_orphans import refuse_orphans, refuse_unlike
from rebend.pipeline.jobs.planned_version import write_plan
from rebend.pipeline.checks.before_run import check_accounts, check_before_fetch
from rebend.pipeline.checks.before_run import check_before_jobs, check_gpus
from rebend.pipeline.checks.old_results import old_results_notice
from rebend.pipeline.cost.estimate import check_budget, tell_budget
from rebend.pipeline.cost.judges import judge_outlook
from rebend.pipeline.jobs.warm_start import start_server

FETCHING = {"fetch", "fetch_asset"}  # these need neither judges' keys nor local files
TARGETS = {"all", "fetch", "plan"}  # no work of their own

# A local run has as many jobs on GPUs at a time as there are GPUs; `nodes` are those of a cluster.
GPUS = visible_gpus()
if workflow.is_main_process and workflow.resource_settings.nodes is None and GPUS:
    if "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", len(GPUS))


def planned_job(job):
    """Return a job in the form that the estimate reads."""
    settings = job.params.get("settings", {})
    gpus = job.resources.get("gpu", 0)
    return PlannedJob(job.rule.name, settings, list(job.input), list(job.output), gpus)


def planned_versions(jobs):
    """Return record → (code version, settings) of the jobs that write a record."""
    return {
        job.output.record: (job.params.code, job.params.settings)
        for job in jobs
        if job.output.get("record")
    }


def unsigned_jobs(dag):
    """Return jobs that finished after their Snakemake was killed: Snakemake has no metadata of them."""
    return [
        job
        for job in dag.jobs
        if job.output.get("record")
        and not dag.needrun(job)
        and not workflow.persistence.has_metadata(job)
    ]


def refuse_mistakes(jobs, planned, unsigned):
    """Raise `RebendError` for mistakes that would make the run fail, and for a run over budget."""
    refuse_orphans(Path.cwd())
    refuse_unlike(planned_versions(unsigned))
    fetching = {job.rule.name for job in jobs} <= FETCHING
    (check_before_fetch if fetching else check_before_jobs)(PLAN)
    check_budget(PLAN, planned)
    if workflow.local_exec:
        check_gpus(PLAN, len(GPUS))
        lend(GPUS)
    else:
        accounts = {job.resources.get("slurm_account") for job in jobs}
        check_accounts(accounts - {None})


onstart:
    jobs = list(workflow.dag.needrun_jobs())
    planned = [planned_job(job) for job in jobs if job.rule.name not in TARGETS]
    unsigned = unsigned_jobs(workflow.dag)
    try:
        if any(job.rule.name == "plan" for job in jobs):
            tell_budget(PLAN, planned, print)
            raise SystemExit(0)
        refuse_mistakes(jobs, planned, unsigned)
    except RebendError as error:
        raise WorkflowError(str(error))
    for job in unsigned:
        workflow.async_run(workflow.persistence.finished(job))
    for line in [*judge_outlook(PLAN), old_results_notice(paths.ROOT)]:
        if line:
            logger.info(line)
    write_plan(planned_versions(jobs), stage.texts, f"{paths.PROGRESS}/plans")
    # Its start pays off only for many jobs. The global name keeps the server alive until Snakemake ends.
    global WARM
    if workflow.local_exec and len(jobs) > 8:
        WARM = start_server()
