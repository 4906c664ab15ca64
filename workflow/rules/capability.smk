# What can the model still do? Capability benchmarks through lm-evaluation-harness.


rule score_capability:
    input:
        model=paths.model("{model}"),
        files=lambda wildcards: PLAN.capability_files(wildcards.capability),
        assets=lambda wildcards: PLAN.manifests(
            CONFIG["capabilities"][wildcards.capability]
        ),
    output:
        scores=paths.capability("{model}", "{capability}"),
        record=paths.record(paths.capability("{model}", "{capability}")),
    log:
        "results/logs/score_capability/{model}/{capability}.log",
    benchmark:
        "results/benchmarks/score_capability/{model}/{capability}.tsv"
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: PLAN.resources(wildcards.model)),
    params:
        settings=lambda wildcards: PLAN.capability_settings(
            wildcards.model, wildcards.capability
        ),
        code=code_digest(SCRIPTS / "evaluation/score_capability.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/evaluation/score_capability.py"
