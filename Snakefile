# rebend: RepBend and RE-Control as one graph of cached stages. Start with README.md.
from functools import partial
from pathlib import Path

from snakemake.utils import min_version

from rebend.pipeline.checks.workflow import planned_study
from rebend.pipeline.cost.memory import Memory
from rebend.pipeline.graph import paths
from rebend.pipeline.stages.rules import Stages, benchmark_of, log_of, one_of
from rebend.pipeline.stages.rules import wildcard_patterns, with_record
from rebend.pipeline.stages import common, data, evaluation, made_datasets, models
from rebend.pipeline.stages import recontrol, repbend
from rebend.pipeline.stages import rules as stage_rules

min_version("9.0")


configfile: "config/config.yaml"


HOME = Path(workflow.basedir)
ENVIRONMENT = str(HOME / "workflow/envs/rebend.yaml")
stage = Stages(HOME / "workflow/scripts")
PLAN = planned_study(config, HOME / "config/studies")
CONFIG = PLAN.config
resources = partial(stage_rules.resources, estimate=Memory(PLAN).megabytes)


wildcard_constraints:
    **wildcard_patterns(CONFIG),


rule all:
    input:
        "results/report.html",
        "results/tables",
        "results/figures",


include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/repbend.smk"
include: "workflow/rules/recontrol.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/pipeline.smk"
