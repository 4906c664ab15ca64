# rebend: RepBend and RE-Control as one graph of cached stages. Start with README.md.
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from rebend.pipeline.graph import paths
from rebend.pipeline.jobs.code_digest import code_digest
from rebend.config.judges import LIMITS, limits_of
from rebend.config.load import load_config
from rebend.config.rewards import asking
from rebend.config.base import settings
from rebend.errors import RebendError
from rebend.pipeline.graph.plan import Plan, one_of, resources
from rebend.pipeline.jobs.planned_version import texts_digest

min_version("9.0")


configfile: "config/config.yaml"


HOME = Path(workflow.basedir)
SCRIPTS = HOME / "workflow/scripts"
TEXTS = texts_digest(SCRIPTS)
try:
    CONFIG = load_config(config, HOME / "config/studies")
    PLAN = Plan(CONFIG)
except RebendError as error:
    raise WorkflowError(str(error))


report: "workflow/report/workflow.rst"


wildcard_constraints:
    base=one_of(CONFIG["models"]),
    adapter=one_of(CONFIG["adapters"]),
    model=r"[a-z0-9_]+(\+[a-z0-9_]+)?",
    dataset=one_of(CONFIG["datasets"]),
    reward=one_of(CONFIG["rewards"]),
    encoder=one_of(CONFIG["encoders"]),
    activations=one_of(CONFIG["activations"]),
    value_model=one_of(CONFIG["value_models"]),
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


# `snakemake plan` tells what `all` would take, and starts nothing (see before_jobs.smk).
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
include: "workflow/rules/before_jobs.smk"
