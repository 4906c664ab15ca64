# Data sets from anywhere, brought into one schema per kind.


def dataset_files(key):
    """The local file behind `source` or `reference`, if it has one: it counts as an input."""

    def found(wildcards):
        source = getattr(CONFIG["datasets"][wildcards.dataset], key)
        return [PLAN.local(source.local)] if source and source.local else []

    return found


rule prepare_dataset:
    input:
        source=dataset_files("source"),
        reference=dataset_files("reference"),
    output:
        data=paths.data("{dataset}"),
        record=paths.record(paths.data("{dataset}")),
    params:
        settings=lambda wildcards: PLAN.dataset_settings(wildcards.dataset),
        code=code_digest(SCRIPTS / "prepare_dataset.py"),
        progress=paths.PROGRESS,
    log:
        "results/logs/prepare_dataset/{dataset}.log",
    benchmark:
        "results/benchmarks/prepare_dataset/{dataset}.tsv"
    conda:
        "../envs/rebend.yaml"
    script:
        "../scripts/prepare_dataset.py"
