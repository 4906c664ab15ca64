# RepBend (arXiv:2504.01550) and its baselines: train an adapter, merge it, look at the hidden states.
RELEASED = [
    name for name, block in CONFIG["adapters"].items() if block.method == "released"
]
COMBINED = [
    name for name, block in CONFIG["adapters"].items() if block.method == "task_arithmetic"
]


rule train_adapter:
    input:
        model=paths.model("{base}"),
        examples=lambda wildcards: paths.data(CONFIG["adapters"][wildcards.adapter].examples),
        paired_examples=lambda wildcards: paths.data(CONFIG["adapters"][wildcards.adapter].paired_examples),
        retain_chats=lambda wildcards: paths.data(CONFIG["adapters"][wildcards.adapter].retain_chats),
    output:
        adapter=directory(paths.adapter("{base}", "{adapter}")),
        record=paths.record(paths.adapter("{base}", "{adapter}")),
    log:
        "results/logs/train_adapter/{base}/{adapter}.log",
    benchmark:
        "results/benchmarks/train_adapter/{base}/{adapter}.tsv"
    wildcard_constraints:
        adapter=one_of(set(CONFIG["adapters"]) - {*RELEASED, *COMBINED}),
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(
            lambda wildcards: PLAN.training_resources(wildcards.base, wildcards.adapter)
        ),
        # and what changes how fast an adapter is trained, never what is learnt: no settings
        ranks=lambda wildcards: CONFIG["adapters"][wildcards.adapter].ranks,
        zero_config=lambda wildcards: PLAN.zero_config(
            wildcards.adapter, HOME / "config/deepspeed"
        ),
    params:
        settings=lambda wildcards: {
            "adapter": settings(CONFIG["adapters"][wildcards.adapter]),
            "dtype": PLAN.dtype(wildcards.base),
        },
        code=code_digest(SCRIPTS / "repbend/train_adapter.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/repbend/train_adapter.py"


rule prepare_adapter:
    input:
        model=paths.model("{base}"),
        source=lambda wildcards: PLAN.checkpoint_files(CONFIG["adapters"][wildcards.adapter]),
        assets=lambda wildcards: PLAN.manifests(CONFIG["adapters"][wildcards.adapter]),
    output:
        adapter=directory(paths.adapter("{base}", "{adapter}")),
        record=paths.record(paths.adapter("{base}", "{adapter}")),
    log:
        "results/logs/prepare_adapter/{base}/{adapter}.log",
    benchmark:
        "results/benchmarks/prepare_adapter/{base}/{adapter}.tsv"
    wildcard_constraints:
        adapter=one_of(RELEASED),
    conda:
        "../envs/rebend.yaml"
    params:
        settings=lambda wildcards: PLAN.adapter_settings(wildcards.adapter),
        code=code_digest(SCRIPTS / "repbend/prepare_adapter.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/repbend/prepare_adapter.py"


rule combine_adapters:
    input:
        adapters=lambda wildcards: [
            paths.adapter(wildcards.base, part.adapter)
            for part in CONFIG["adapters"][wildcards.adapter].parts
        ],
    output:
        adapter=directory(paths.adapter("{base}", "{adapter}")),
        record=paths.record(paths.adapter("{base}", "{adapter}")),
    log:
        "results/logs/combine_adapters/{base}/{adapter}.log",
    benchmark:
        "results/benchmarks/combine_adapters/{base}/{adapter}.tsv"
    wildcard_constraints:
        adapter=one_of(COMBINED),
    conda:
        "../envs/rebend.yaml"
    params:
        settings=lambda wildcards: settings(CONFIG["adapters"][wildcards.adapter]),
        code=code_digest(SCRIPTS / "repbend/combine_adapters.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/repbend/combine_adapters.py"


rule merge_adapter:
    input:
        model=paths.model("{base}"),
        adapter=paths.adapter("{base}", "{adapter}"),
    output:
        model=directory(paths.model("{base}+{adapter}")),
        record=paths.record(paths.model("{base}+{adapter}")),
    log:
        "results/logs/merge_adapter/{base}/{adapter}.log",
    benchmark:
        "results/benchmarks/merge_adapter/{base}/{adapter}.tsv"
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: PLAN.resources(wildcards.base)),
    params:
        settings=lambda wildcards: {
            "base": wildcards.base,
            "adapter": wildcards.adapter,
            "dtype": PLAN.dtype(wildcards.base),
        },
        code=code_digest(SCRIPTS / "repbend/merge_adapter.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/repbend/merge_adapter.py"


rule project_hidden_states:
    input:
        base=paths.model("{base}"),
        adapted=paths.model("{base}+{adapter}"),
        data=paths.data("{dataset}"),
    output:
        states=paths.states("{base}", "{adapter}", "{dataset}"),
        record=paths.record(paths.states("{base}", "{adapter}", "{dataset}")),
    log:
        "results/logs/project_hidden_states/{base}/{adapter}/{dataset}.log",
    benchmark:
        "results/benchmarks/project_hidden_states/{base}/{adapter}/{dataset}.tsv"
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: PLAN.resources(wildcards.base)),
    params:
        settings=lambda wildcards: PLAN.state_settings(wildcards.base, wildcards.adapter),
        code=code_digest(SCRIPTS / "repbend/project_hidden_states.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/repbend/project_hidden_states.py"
