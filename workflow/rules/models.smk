# Models, reward models and encoders: taken over after a check, or trained small in the graph.
SHELVES = {
    "models": "models",
    "reward_models": "rewards",
    "encoders": "encoders",
    "judge_models": "safety_judges",
}
TAKEN_OVER = {
    f"{shelf}/{name}": block
    for shelf, section in SHELVES.items()
    for name, block in CONFIG[section].items()
    if getattr(block, "hub", None) or getattr(block, "local", None)
}
TINY_MODELS = [name for name, block in CONFIG["models"].items() if block.tiny]
ENDPOINTS = [name for name, block in CONFIG["rewards"].items() if block.http]
TINY_REWARDS = [name for name, block in CONFIG["rewards"].items() if block.tiny]


rule prepare_model:
    input:
        source=lambda wildcards: PLAN.checkpoint_files(TAKEN_OVER[wildcards.place]),
        assets=lambda wildcards: PLAN.manifests(TAKEN_OVER[wildcards.place]),
    output:
        model=directory("results/{place}"),
        record="results/{place}.json",
    log:
        "results/logs/prepare_model/{place}.log",
    benchmark:
        "results/benchmarks/prepare_model/{place}.tsv"
    wildcard_constraints:
        place=one_of(TAKEN_OVER),
    conda:
        "../envs/rebend.yaml"
    params:
        settings=lambda wildcards: PLAN.checkpoint_settings(
            wildcards.place, TAKEN_OVER[wildcards.place]
        ),
        code=code_digest(SCRIPTS / "models/prepare_model.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/models/prepare_model.py"


rule train_tiny_model:
    input:
        data=lambda wildcards: [
            paths.data(name)
            for name in CONFIG["models"][wildcards.model].tiny.datasets
        ],
    output:
        model=directory(paths.model("{model}")),
        record=paths.record(paths.model("{model}")),
    log:
        "results/logs/train_tiny_model/{model}.log",
    benchmark:
        "results/benchmarks/train_tiny_model/{model}.tsv"
    wildcard_constraints:
        model=one_of(TINY_MODELS),
    conda:
        "../envs/rebend.yaml"
    threads: 2
    params:
        settings=lambda wildcards: settings(CONFIG["models"][wildcards.model].tiny),
        code=code_digest(SCRIPTS / "models/train_tiny_model.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/models/train_tiny_model.py"


rule train_tiny_reward_model:
    input:
        model=lambda wildcards: paths.model(
            CONFIG["rewards"][wildcards.reward].tiny.model
        ),
        data=lambda wildcards: paths.data(
            CONFIG["rewards"][wildcards.reward].tiny.dataset
        ),
    output:
        model=directory(paths.reward_model("{reward}")),
        record=paths.record(paths.reward_model("{reward}")),
    log:
        "results/logs/train_tiny_reward_model/{reward}.log",
    benchmark:
        "results/benchmarks/train_tiny_reward_model/{reward}.tsv"
    wildcard_constraints:
        reward=one_of(TINY_REWARDS),
    conda:
        "../envs/rebend.yaml"
    params:
        settings=lambda wildcards: settings(CONFIG["rewards"][wildcards.reward].tiny),
        code=code_digest(SCRIPTS / "models/train_tiny_reward_model.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/models/train_tiny_reward_model.py"


rule check_reward_endpoint:
    output:
        model=directory(paths.reward_model("{reward}")),
        record=paths.record(paths.reward_model("{reward}")),
    log:
        "results/logs/check_reward_endpoint/{reward}.log",
    benchmark:
        "results/benchmarks/check_reward_endpoint/{reward}.tsv"
    wildcard_constraints:
        reward=one_of(ENDPOINTS),
    priority: 1  # before all jobs that do not need it: nobody waits hours to hear that nobody answers
    conda:
        "../envs/rebend.yaml"
    resources:
        asking=lambda wildcards: asking([CONFIG["rewards"][wildcards.reward]]),
    params:
        settings=lambda wildcards: {
            "reward": settings(CONFIG["rewards"][wildcards.reward])
        },
        code=code_digest(SCRIPTS / "models/check_reward_endpoint.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/models/check_reward_endpoint.py"
