# rebend: RepBend and RE-Control as one graph of cached stages. Start with README.md.
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.utils import min_version

from rebend import paths
from rebend.budget_work import PlannedJob
from rebend.code_digest import code_digest
from rebend.config.judges import LIMITS, limits_of
from rebend.config.load import load_config
from rebend.config.rewards import asking
from rebend.config.sources import settings
from rebend.errors import RebendError
from rebend.gpu_slots import lend, visible_gpus
from rebend.orphans import refuse_orphans, refuse_unlike
from rebend.plan import Plan, one_of, resources
from rebend.planned import remember, texts_digest
from rebend.preflight import check_before_jobs, check_gpus
from rebend.preflight_assets import check_before_fetch
from rebend.preflight_budget import check_budget, tell_budget
from rebend.preflight_judges import judge_outlook
from rebend.warm import start_server

min_version("9.0")


configfile: "config/config.yaml"


HOME = Path(workflow.basedir)
SCRIPTS = HOME / "workflow/scripts"
TEXTS = texts_digest(SCRIPTS)
FETCHING = {"fetch", "fetch_asset"}  # they need neither judges' keys nor local files
TARGETS = {"all", "fetch", "plan"}  # no work of their own
try:
    CONFIG = load_config(config, HOME / "config/studies")
    PLAN = Plan(CONFIG)
except RebendError as error:
    raise WorkflowError(str(error))
# A local run has as many jobs on GPUs at a time as there are GPUs; `nodes` are those of a cluster.
GPUS = visible_gpus()
if workflow.is_main_process and workflow.resource_settings.nodes is None and GPUS:
    if "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", len(GPUS))


report: "workflow/report/workflow.rst"


wildcard_constraints:
    base=one_of(CONFIG["models"]),
    bend=one_of(CONFIG["bends"]),
    model=r"[a-z0-9_]+(\+[a-z0-9_]+)?",
    dataset=one_of(CONFIG["datasets"]),
    reward=one_of(CONFIG["rewards"]),
    encoder=one_of(CONFIG["encoders"]),
    activations=one_of(CONFIG["activations"]),
    value=one_of(CONFIG["values"]),
    direction=one_of(CONFIG["directions"]),
    control=one_of(CONFIG["controls"]),
    judge=one_of(CONFIG["judges"]),
    attack=one_of(CONFIG["attacks"]),
    safety_judge=one_of(CONFIG["safety_judges"]),
    capability=one_of(CONFIG["capabilities"]),
    study=r"[a-z0-9_]+",


rule all:
    default_target: True
    input:
        "results/report.html",
        "results/tables",
        "results/figures",


# `snakemake plan` tells what `all` would take, and starts nothing (see `onstart`).
rule plan:
    input:
        rules.all.input,


include: "workflow/rules/assets.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/repbend.smk"
include: "workflow/rules/recontrol.smk"
include: "workflow/rules/scores.smk"
include: "workflow/rules/safety.smk"
include: "workflow/rules/capability.smk"
include: "workflow/rules/report.smk"


onstart:
    rules_to_run = {job.rule.name for job in workflow.dag.needrun_jobs()}
    planned = [
        PlannedJob(
            job.rule.name,
            job.params.get("settings", {}),
            list(job.input),
            list(job.output),
            job.resources.get("gpu", 0),
        )
        for job in workflow.dag.needrun_jobs()
        if job.rule.name not in TARGETS
    ]
    # Finished by jobs whose Snakemake was killed, so that nobody noted what they were made with.
    unsigned = [
        job
        for job in workflow.dag.jobs
        if job.output.get("record")
        and not workflow.dag.needrun(job)
        and not workflow.persistence.has_metadata(job)
    ]
    try:
        if "plan" in rules_to_run:
            tell_budget(PLAN, planned, print)
            raise SystemExit(0)
        refuse_orphans(Path.cwd())
        refuse_unlike(
            {
                job.output.record: (job.params.code, job.params.settings)
                for job in unsigned
            }
        )
        (check_before_fetch if rules_to_run <= FETCHING else check_before_jobs)(
            PLAN
        )
        check_budget(PLAN, planned)
        if workflow.local_exec:
            check_gpus(PLAN, len(GPUS))
            lend(GPUS)
    except RebendError as error:
        raise WorkflowError(str(error))
    for job in unsigned:
        workflow.async_run(workflow.persistence.finished(job))
    for line in judge_outlook(PLAN):
        logger.info(line)
    remember(
        {
            job.output.record: (job.params.code, job.params.settings)
            for job in workflow.dag.needrun_jobs()
            if job.output.get("record")
        },
        TEXTS,
        f"{paths.PROGRESS}/plans",
    )
    # Worth its start only where many short jobs follow; kept in a name, because it ends with its last owner.
    global WARM
    if workflow.local_exec and sum(1 for job in workflow.dag.needrun_jobs()) > 8:
        WARM = start_server()
