# RepBend (arXiv:2504.01550) and its baselines: train an adapter, merge it, look at the hidden states.
RELEASED = [
    name for name, block in CONFIG["bends"].items() if block.method == "released"
]
COMBINED = [
    name for name, block in CONFIG["bends"].items() if block.method == "task_arithmetic"
]


rule train_bend:
    input:
        model=paths.model("{base}"),
        samples=lambda wildcards: paths.data(CONFIG["bends"][wildcards.bend].samples),
        pairs=lambda wildcards: paths.data(CONFIG["bends"][wildcards.bend].pairs),
        retain=lambda wildcards: paths.data(CONFIG["bends"][wildcards.bend].retain),
    output:
        bend=directory(paths.bend("{base}", "{bend}")),
        record=paths.record(paths.bend("{base}", "{bend}")),
    log:
        "results/logs/train_bend/{base}/{bend}.log",
    benchmark:
        "results/benchmarks/train_bend/{base}/{bend}.tsv"
    wildcard_constraints:
        bend=one_of(set(CONFIG["bends"]) - {*RELEASED, *COMBINED}),
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(
            lambda wildcards: PLAN.training_needs(wildcards.base, wildcards.bend)
        ),
        # and what changes how fast a bend is trained, never what is learnt: no settings
        ranks=lambda wildcards: CONFIG["bends"][wildcards.bend].ranks,
        zero_config=lambda wildcards: PLAN.zero_config(
            wildcards.bend, HOME / "config/deepspeed"
        ),
    params:
        settings=lambda wildcards: {
            "bend": settings(CONFIG["bends"][wildcards.bend]),
            "dtype": PLAN.dtype(wildcards.base),
        },
        code=code_digest(SCRIPTS / "train_bend.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/train_bend.py"


rule prepare_adapter:
    input:
        model=paths.model("{base}"),
        source=lambda wildcards: PLAN.checkpoint_files(CONFIG["bends"][wildcards.bend]),
        assets=lambda wildcards: PLAN.manifests(CONFIG["bends"][wildcards.bend]),
    output:
        bend=directory(paths.bend("{base}", "{bend}")),
        record=paths.record(paths.bend("{base}", "{bend}")),
    log:
        "results/logs/prepare_adapter/{base}/{bend}.log",
    benchmark:
        "results/benchmarks/prepare_adapter/{base}/{bend}.tsv"
    wildcard_constraints:
        bend=one_of(RELEASED),
    conda:
        "../envs/rebend.yaml"
    params:
        settings=lambda wildcards: PLAN.adapter_settings(wildcards.bend),
        code=code_digest(SCRIPTS / "prepare_adapter.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/prepare_adapter.py"


rule combine_bends:
    input:
        bends=lambda wildcards: [
            paths.bend(wildcards.base, part.bend)
            for part in CONFIG["bends"][wildcards.bend].parts
        ],
    output:
        bend=directory(paths.bend("{base}", "{bend}")),
        record=paths.record(paths.bend("{base}", "{bend}")),
    log:
        "results/logs/combine_bends/{base}/{bend}.log",
    benchmark:
        "results/benchmarks/combine_bends/{base}/{bend}.tsv"
    wildcard_constraints:
        bend=one_of(COMBINED),
    conda:
        "../envs/rebend.yaml"
    params:
        settings=lambda wildcards: settings(CONFIG["bends"][wildcards.bend]),
        code=code_digest(SCRIPTS / "combine_bends.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/combine_bends.py"


rule merge_bend:
    input:
        model=paths.model("{base}"),
        bend=paths.bend("{base}", "{bend}"),
    output:
        model=directory(paths.model("{base}+{bend}")),
        record=paths.record(paths.model("{base}+{bend}")),
    log:
        "results/logs/merge_bend/{base}/{bend}.log",
    benchmark:
        "results/benchmarks/merge_bend/{base}/{bend}.tsv"
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: PLAN.needs(wildcards.base)),
    params:
        settings=lambda wildcards: {
            "base": wildcards.base,
            "bend": wildcards.bend,
            "dtype": PLAN.dtype(wildcards.base),
        },
        code=code_digest(SCRIPTS / "merge_bend.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/merge_bend.py"


rule project_states:
    input:
        base=paths.model("{base}"),
        bent=paths.model("{base}+{bend}"),
        data=paths.data("{dataset}"),
    output:
        states=paths.states("{base}", "{bend}", "{dataset}"),
        record=paths.record(paths.states("{base}", "{bend}", "{dataset}")),
    log:
        "results/logs/project_states/{base}/{bend}/{dataset}.log",
    benchmark:
        "results/benchmarks/project_states/{base}/{bend}/{dataset}.tsv"
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: PLAN.needs(wildcards.base)),
    params:
        settings=lambda wildcards: PLAN.state_settings(wildcards.base, wildcards.bend),
        code=code_digest(SCRIPTS / "project_states.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/project_states.py"
