# Data sets from anywhere, brought into one schema per kind.


rule prepare_dataset:
    input:
        source=lambda wildcards: PLAN.dataset_file(wildcards.dataset, "source"),
        reference=lambda wildcards: PLAN.dataset_file(wildcards.dataset, "reference"),
        assets=lambda wildcards: PLAN.manifests(CONFIG["datasets"][wildcards.dataset]),
    output:
        data=paths.data("{dataset}"),
        record=paths.record(paths.data("{dataset}")),
    log:
        "results/logs/prepare_dataset/{dataset}.log",
    benchmark:
        "results/benchmarks/prepare_dataset/{dataset}.tsv"
    conda:
        "../envs/rebend.yaml"
    params:
        settings=lambda wildcards: PLAN.dataset_settings(wildcards.dataset),
        code=code_digest(SCRIPTS / "data/prepare_dataset.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/data/prepare_dataset.py"
