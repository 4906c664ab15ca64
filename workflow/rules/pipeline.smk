# Before the first job: refuse mistakes and runs over budget, print the estimate, write the plan.
from rebend.pipeline.jobs.interpreter import quote_interpreter
from rebend.pipeline.start import register_gpus, start_run

quote_interpreter()
register_gpus(workflow)


onstart:
    start_run(workflow, PLAN, stage.texts)
