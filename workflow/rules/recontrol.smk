# RE-Control (arXiv:2406.05954): hidden states, rewards, a value network, and decoding that climbs it.
CONTROLS = CONFIG["controls"]
RELEASED_VALUE_MODELS = [
    name for name, block in CONFIG["value_models"].items() if block.method == "released"
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
        **resources(lambda wildcards: PLAN.resources(wildcards.model)),
    params:
        settings=lambda wildcards: {
            "activations": settings(CONFIG["activations"][wildcards.activations]),
            "shard": int(wildcards.shard),
            "dtype": PLAN.dtype(wildcards.model),
        },
        code=code_digest(SCRIPTS / "recontrol/extract_activations.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/recontrol/extract_activations.py"


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
        code=code_digest(SCRIPTS / "recontrol/gather_activations.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/recontrol/gather_activations.py"


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
        **resources(lambda wildcards: CONFIG["rewards"][wildcards.reward].resources),
        asking=lambda wildcards: asking([CONFIG["rewards"][wildcards.reward]]),
    params:
        settings=lambda wildcards: {
            "reward": settings(CONFIG["rewards"][wildcards.reward])
        },
        code=code_digest(SCRIPTS / "recontrol/label_rewards.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/recontrol/label_rewards.py"


rule train_value_model:
    input:
        manifest=lambda wildcards: paths.manifest(
            wildcards.model, CONFIG["value_models"][wildcards.value_model].activations
        ),
        responses=lambda wildcards: paths.sampled(
            wildcards.model, CONFIG["value_models"][wildcards.value_model].activations
        ),
        states=lambda wildcards: PLAN.shards(
            wildcards.model, CONFIG["value_models"][wildcards.value_model].activations, "states"
        ),
        model=lambda wildcards: PLAN.streaming_model(
            wildcards.model, CONFIG["value_models"][wildcards.value_model].activations
        ),
        rewards=lambda wildcards: paths.rewards(
            wildcards.model,
            CONFIG["value_models"][wildcards.value_model].activations,
            CONFIG["value_models"][wildcards.value_model].reward,
        ),
    output:
        value_model=directory(paths.value_model("{model}", "{value_model}")),
        record=paths.record(paths.value_model("{model}", "{value_model}")),
    log:
        "results/logs/train_value_model/{model}/{value_model}.log",
    benchmark:
        "results/benchmarks/train_value_model/{model}/{value_model}.tsv"
    wildcard_constraints:
        value_model=one_of(set(CONFIG["value_models"]) - set(RELEASED_VALUE_MODELS)),
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: PLAN.resources(wildcards.model)),
    params:
        settings=lambda wildcards: {
            "value_model": settings(CONFIG["value_models"][wildcards.value_model]),
            "dtype": PLAN.dtype(wildcards.model),
        },
        code=code_digest(SCRIPTS / "recontrol/train_value_model.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/recontrol/train_value_model.py"


rule prepare_value_model:
    input:
        model=paths.model("{model}"),
        source=lambda wildcards: PLAN.value_model_file(wildcards.value_model),
    output:
        value_model=directory(paths.value_model("{model}", "{value_model}")),
        record=paths.record(paths.value_model("{model}", "{value_model}")),
    log:
        "results/logs/prepare_value_model/{model}/{value_model}.log",
    benchmark:
        "results/benchmarks/prepare_value_model/{model}/{value_model}.tsv"
    wildcard_constraints:
        value_model=one_of(RELEASED_VALUE_MODELS),
    conda:
        "../envs/rebend.yaml"
    params:
        settings=lambda wildcards: {
            "value_model": settings(CONFIG["value_models"][wildcards.value_model]),
        },
        code=code_digest(SCRIPTS / "recontrol/prepare_value_model.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/recontrol/prepare_value_model.py"


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
        **resources(lambda wildcards: PLAN.resources(wildcards.model)),
    params:
        settings=lambda wildcards: {
            "direction": settings(CONFIG["directions"][wildcards.direction]),
            "dtype": PLAN.dtype(wildcards.model),
        },
        code=code_digest(SCRIPTS / "recontrol/fit_direction.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/recontrol/fit_direction.py"


rule choose_strength:
    input:
        model=paths.model("{model}"),
        value_model=lambda wildcards: PLAN.value_model_input(wildcards.model, wildcards.control),
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
        **resources(lambda wildcards: PLAN.resources(wildcards.model)),
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
        code=code_digest(SCRIPTS / "recontrol/choose_strength.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/recontrol/choose_strength.py"


rule decode:
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
        responses=paths.responses("{model}", "{dataset}", "{control}"),
        record=paths.record(paths.responses("{model}", "{dataset}", "{control}")),
    log:
        "results/logs/decode/{model}/{dataset}/{control}.log",
    benchmark:
        "results/benchmarks/decode/{model}/{dataset}/{control}.tsv"
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: PLAN.resources(wildcards.model)),
        asking=lambda wildcards: PLAN.asking(wildcards.control),
    params:
        settings=lambda wildcards: PLAN.control_settings(
            wildcards.model, wildcards.control, without=["choice"]
        ),
        code=code_digest(SCRIPTS / "recontrol/decode.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/recontrol/decode.py"
