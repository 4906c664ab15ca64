# Before the first job: refuse mistakes and runs over budget, print the estimate, write the plan.
from rebend.pipeline.start import register_gpus, start_run

register_gpus(workflow)


onstart:
    start_run(workflow, PLAN, stage.texts)
