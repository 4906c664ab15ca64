# Is the model safe? Attacks on evaluation data sets, and safety judges on what comes out.


rule attack:
    input:
        model=paths.model("{model}"),
        data=paths.data("{dataset}"),
        value_model=lambda wildcards: PLAN.value_model_input(wildcards.model, wildcards.control),
        direction=lambda wildcards: PLAN.direction_input(
            wildcards.model, wildcards.control
        ),
        guide=lambda wildcards: PLAN.guide_input(wildcards.control),
        strength=lambda wildcards: PLAN.strength_input(
            wildcards.model, wildcards.control
        ),
    output:
        completions=paths.completions("{model}", "{dataset}", "{attack}", "{control}"),
        record=paths.record(
            paths.completions("{model}", "{dataset}", "{attack}", "{control}")
        ),
    log:
        "results/logs/attack/{model}/{dataset}/{attack}/{control}.log",
    benchmark:
        "results/benchmarks/attack/{model}/{dataset}/{attack}/{control}.tsv"
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: PLAN.resources(wildcards.model)),
        asking=lambda wildcards: PLAN.asking(wildcards.control),
    params:
        settings=lambda wildcards: {
            "attack": settings(CONFIG["attacks"][wildcards.attack]),
            **PLAN.control_settings(
                wildcards.model, wildcards.control, without=["choice"]
            ),
        },
        code=code_digest(SCRIPTS / "evaluation/attack.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/evaluation/attack.py"


rule judge_safety:
    input:
        completions=paths.completions("{model}", "{dataset}", "{attack}", "{control}"),
        data=paths.data("{dataset}"),
        judge=lambda wildcards: PLAN.judge_input(wildcards.safety_judge),
    output:
        verdicts=paths.safety(
            "{safety_judge}", "{model}", "{dataset}", "{attack}", "{control}"
        ),
        record=paths.record(
            paths.safety(
                "{safety_judge}", "{model}", "{dataset}", "{attack}", "{control}"
            )
        ),
    log:
        "results/logs/judge_safety/{safety_judge}/{model}/{dataset}/{attack}/{control}.log",
    benchmark:
        "results/benchmarks/judge_safety/{safety_judge}/{model}/{dataset}/{attack}/{control}.tsv"
    # on a cluster, where each job has its price
    group:
        lambda wildcards: PLAN.judging_group(wildcards.safety_judge)
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: PLAN.judge_resources(wildcards.safety_judge)),
        concurrency=lambda wildcards: getattr(
            CONFIG["safety_judges"][wildcards.safety_judge], "concurrency", 1
        ),
        retries=lambda wildcards: getattr(
            CONFIG["safety_judges"][wildcards.safety_judge], "retries", 0
        ),
        limits=lambda wildcards: limits_of(
            CONFIG["safety_judges"][wildcards.safety_judge]
        ),
    params:
        settings=lambda wildcards: {
            "safety_judge": settings(
                CONFIG["safety_judges"][wildcards.safety_judge], without=LIMITS
            ),
        },
        code=code_digest(SCRIPTS / "evaluation/judge_safety.py"),
        progress=paths.PROGRESS,
        store=paths.JUDGE_STORE,
    script:
        "../scripts/evaluation/judge_safety.py"
