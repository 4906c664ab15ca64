# RE-Control (arXiv:2406.05954): hidden states, rewards, a value network, and decoding that climbs it.
CONTROLS = CONFIG["controls"]
RELEASED_VALUES = [
    name for name, block in CONFIG["values"].items() if block.method == "released"
]


# One job per shard; they can run at once.
rule extract_activations:
    input:
        model=paths.model("{model}"),
        data=lambda wildcards: paths.data(
            CONFIG["activations"][wildcards.activations].dataset
        ),
    output:
        states=paths.shard("{model}", "{activations}", "states", "{shard}", "{shards}"),
        responses=paths.shard(
            "{model}", "{activations}", "responses", "{shard}", "{shards}"
        ),
        record=paths.record(
            paths.shard("{model}", "{activations}", "states", "{shard}", "{shards}")
        ),
    log:
        "results/logs/extract_activations/{model}/{activations}/{shard}-of-{shards}.log",
    benchmark:
        "results/benchmarks/extract_activations/{model}/{activations}/{shard}-of-{shards}.tsv"
    wildcard_constraints:
        shard=r"\d{5}",
        shards=r"\d{5}",
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: PLAN.needs(wildcards.model)),
    params:
        settings=lambda wildcards: {
            "activations": settings(CONFIG["activations"][wildcards.activations]),
            "shard": int(wildcards.shard),
            "dtype": PLAN.dtype(wildcards.model),
        },
        code=code_digest(SCRIPTS / "extract_activations.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/extract_activations.py"


rule gather_activations:
    input:
        states=lambda wildcards: PLAN.shards(
            wildcards.model, wildcards.activations, "states"
        ),
        responses=lambda wildcards: PLAN.shards(
            wildcards.model, wildcards.activations, "responses"
        ),
    output:
        manifest=paths.manifest("{model}", "{activations}"),
        responses=paths.sampled("{model}", "{activations}"),
        record=paths.record(paths.activations("{model}", "{activations}")),
    log:
        "results/logs/gather_activations/{model}/{activations}.log",
    benchmark:
        "results/benchmarks/gather_activations/{model}/{activations}.tsv"
    conda:
        "../envs/rebend.yaml"
    params:
        settings=lambda wildcards: settings(
            CONFIG["activations"][wildcards.activations]
        ),
        code=code_digest(SCRIPTS / "gather_activations.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/gather_activations.py"


rule label_rewards:
    input:
        responses=paths.sampled("{model}", "{activations}"),
        data=lambda wildcards: paths.data(
            CONFIG["activations"][wildcards.activations].dataset
        ),
        reward=paths.reward_model("{reward}"),
    output:
        rewards=paths.rewards("{model}", "{activations}", "{reward}"),
        record=paths.record(paths.rewards("{model}", "{activations}", "{reward}")),
    log:
        "results/logs/label_rewards/{model}/{activations}/{reward}.log",
    benchmark:
        "results/benchmarks/label_rewards/{model}/{activations}/{reward}.tsv"
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: CONFIG["rewards"][wildcards.reward].needs),
        asking=lambda wildcards: asking([CONFIG["rewards"][wildcards.reward]]),
    params:
        settings=lambda wildcards: {
            "reward": settings(CONFIG["rewards"][wildcards.reward])
        },
        code=code_digest(SCRIPTS / "label_rewards.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/label_rewards.py"


rule train_value:
    input:
        manifest=lambda wildcards: paths.manifest(
            wildcards.model, CONFIG["values"][wildcards.value].activations
        ),
        responses=lambda wildcards: paths.sampled(
            wildcards.model, CONFIG["values"][wildcards.value].activations
        ),
        states=lambda wildcards: PLAN.shards(
            wildcards.model, CONFIG["values"][wildcards.value].activations, "states"
        ),
        model=lambda wildcards: PLAN.streaming_model(
            wildcards.model, CONFIG["values"][wildcards.value].activations
        ),
        rewards=lambda wildcards: paths.rewards(
            wildcards.model,
            CONFIG["values"][wildcards.value].activations,
            CONFIG["values"][wildcards.value].reward,
        ),
    output:
        value=directory(paths.value("{model}", "{value}")),
        record=paths.record(paths.value("{model}", "{value}")),
    log:
        "results/logs/train_value/{model}/{value}.log",
    benchmark:
        "results/benchmarks/train_value/{model}/{value}.tsv"
    wildcard_constraints:
        value=one_of(set(CONFIG["values"]) - set(RELEASED_VALUES)),
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: PLAN.needs(wildcards.model)),
    params:
        settings=lambda wildcards: {
            "value": settings(CONFIG["values"][wildcards.value]),
            "dtype": PLAN.dtype(wildcards.model),
        },
        code=code_digest(SCRIPTS / "train_value.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/train_value.py"


rule prepare_value:
    input:
        model=paths.model("{model}"),
        source=lambda wildcards: PLAN.value_file(wildcards.value),
    output:
        value=directory(paths.value("{model}", "{value}")),
        record=paths.record(paths.value("{model}", "{value}")),
    log:
        "results/logs/prepare_value/{model}/{value}.log",
    benchmark:
        "results/benchmarks/prepare_value/{model}/{value}.tsv"
    wildcard_constraints:
        value=one_of(RELEASED_VALUES),
    conda:
        "../envs/rebend.yaml"
    params:
        settings=lambda wildcards: {
            "value": settings(CONFIG["values"][wildcards.value]),
        },
        code=code_digest(SCRIPTS / "prepare_value.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/prepare_value.py"


rule fit_direction:
    input:
        manifest=lambda wildcards: paths.manifest(
            wildcards.model, CONFIG["directions"][wildcards.direction].activations
        ),
        responses=lambda wildcards: paths.sampled(
            wildcards.model, CONFIG["directions"][wildcards.direction].activations
        ),
        states=lambda wildcards: PLAN.shards(
            wildcards.model,
            CONFIG["directions"][wildcards.direction].activations,
            "states",
        ),
        model=lambda wildcards: PLAN.streaming_model(
            wildcards.model, CONFIG["directions"][wildcards.direction].activations
        ),
        rewards=lambda wildcards: paths.rewards(
            wildcards.model,
            CONFIG["directions"][wildcards.direction].activations,
            CONFIG["directions"][wildcards.direction].reward,
        ),
    output:
        direction=paths.direction("{model}", "{direction}"),
        record=paths.record(paths.direction("{model}", "{direction}")),
    log:
        "results/logs/fit_direction/{model}/{direction}.log",
    benchmark:
        "results/benchmarks/fit_direction/{model}/{direction}.tsv"
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: PLAN.needs(wildcards.model)),
    params:
        settings=lambda wildcards: {
            "direction": settings(CONFIG["directions"][wildcards.direction]),
            "dtype": PLAN.dtype(wildcards.model),
        },
        code=code_digest(SCRIPTS / "fit_direction.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/fit_direction.py"


rule choose_strength:
    input:
        model=paths.model("{model}"),
        value=lambda wildcards: PLAN.value_input(wildcards.model, wildcards.control),
        direction=lambda wildcards: PLAN.direction_input(
            wildcards.model, wildcards.control
        ),
        guide=lambda wildcards: PLAN.guide_input(wildcards.control),
        data=lambda wildcards: paths.data(CONTROLS[wildcards.control].choice.dataset),
        reward=lambda wildcards: paths.reward_model(
            CONTROLS[wildcards.control].choice.reward
        ),
        encoder=lambda wildcards: PLAN.encoder_input(
            CONTROLS[wildcards.control].choice.encoder
        ),
        prompts=lambda wildcards: paths.embeddings(
            CONTROLS[wildcards.control].choice.encoder,
            CONTROLS[wildcards.control].choice.dataset,
        ),
    output:
        strength=paths.strength("{model}", "{control}"),
        record=paths.record(paths.strength("{model}", "{control}")),
    log:
        "results/logs/choose_strength/{model}/{control}.log",
    benchmark:
        "results/benchmarks/choose_strength/{model}/{control}.tsv"
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: PLAN.needs(wildcards.model)),
        asking=lambda wildcards: PLAN.asking(wildcards.control),
    params:
        settings=lambda wildcards: {
            **PLAN.control_settings(wildcards.model, wildcards.control),
            "reward": settings(
                CONFIG["rewards"][CONTROLS[wildcards.control].choice.reward]
            ),
            "encoder": settings(
                CONFIG["encoders"][CONTROLS[wildcards.control].choice.encoder]
            ),
        },
        code=code_digest(SCRIPTS / "choose_strength.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/choose_strength.py"


rule control_decode:
    input:
        model=paths.model("{model}"),
        data=paths.data("{dataset}"),
        value=lambda wildcards: PLAN.value_input(wildcards.model, wildcards.control),
        direction=lambda wildcards: PLAN.direction_input(
            wildcards.model, wildcards.control
        ),
        guide=lambda wildcards: PLAN.guide_input(wildcards.control),
        strength=lambda wildcards: PLAN.strength_input(
            wildcards.model, wildcards.control
        ),
    output:
        responses=paths.responses("{model}", "{dataset}", "{control}"),
        record=paths.record(paths.responses("{model}", "{dataset}", "{control}")),
    log:
        "results/logs/control_decode/{model}/{dataset}/{control}.log",
    benchmark:
        "results/benchmarks/control_decode/{model}/{dataset}/{control}.tsv"
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: PLAN.needs(wildcards.model)),
        asking=lambda wildcards: PLAN.asking(wildcards.control),
    params:
        settings=lambda wildcards: PLAN.control_settings(
            wildcards.model, wildcards.control, without=["choice"]
        ),
        code=code_digest(SCRIPTS / "control_decode.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/control_decode.py"
