# RE-Control (arXiv:2406.05954): hidden states, rewards, a value network, and decoding under a control.


# One job per shard; shards can run in parallel.
rule extract_activations:
    input:
        model=paths.model("{model}"),
        data=partial(recontrol.prompts_of_activations, CONFIG),
    output:
        **with_record(
            states=paths.shard(
                "{model}", "{activations}", "states", "{shard}", "{shards}"
            ),
            responses=paths.shard(
                "{model}", "{activations}", "responses", "{shard}", "{shards}"
            ),
        ),
    log:
        log_of("extract_activations", "{model}", "{activations}", "{shard}-of-{shards}"),
    benchmark:
        benchmark_of(
            "extract_activations", "{model}", "{activations}", "{shard}-of-{shards}"
        )
    wildcard_constraints:
        shard=r"\d{5}",
        shards=r"\d{5}",
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(common.model_resources, CONFIG)),
    params:
        **stage(
            "extract_activations", settings=partial(recontrol.shard_settings, CONFIG)
        ),
    script:
        "../scripts/recontrol/extract_activations.py"


rule gather_activations:
    input:
        states=partial(recontrol.shards, CONFIG, "states"),
        responses=partial(recontrol.shards, CONFIG, "responses"),
    output:
        manifest=paths.manifest("{model}", "{activations}"),
        responses=paths.sampled("{model}", "{activations}"),
        record=paths.record(paths.activations("{model}", "{activations}")),
    log:
        log_of("gather_activations", "{model}", "{activations}"),
    benchmark:
        benchmark_of("gather_activations", "{model}", "{activations}")
    conda:
        ENVIRONMENT
    params:
        **stage(
            "gather_activations",
            settings=partial(recontrol.activations_settings, CONFIG),
        ),
    script:
        "../scripts/recontrol/gather_activations.py"


rule label_rewards:
    input:
        responses=paths.sampled("{model}", "{activations}"),
        data=partial(recontrol.prompts_of_activations, CONFIG),
        reward=paths.reward_model("{reward}"),
    output:
        **with_record(rewards=paths.rewards("{model}", "{activations}", "{reward}")),
    log:
        log_of("label_rewards", "{model}", "{activations}", "{reward}"),
    benchmark:
        benchmark_of("label_rewards", "{model}", "{activations}", "{reward}")
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(models.reward_resources, CONFIG)),
        endpoint_options=partial(models.reward_endpoint_options, CONFIG),
    params:
        **stage(
            "label_rewards",
            settings=partial(models.reward_settings, CONFIG),
            entries=partial(models.reward_code, CONFIG),
        ),
    script:
        "../scripts/recontrol/label_rewards.py"


rule train_value_model:
    input:
        unpack(partial(recontrol.learning_inputs, CONFIG, "value_model")),
    output:
        **with_record(
            value_model=directory(paths.value_model("{model}", "{value_model}"))
        ),
    log:
        log_of("train_value_model", "{model}", "{value_model}"),
    benchmark:
        benchmark_of("train_value_model", "{model}", "{value_model}")
    wildcard_constraints:
        value_model=one_of(common.names_of_method(CONFIG, "value_models", "trained")),
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(common.model_resources, CONFIG)),
    params:
        **stage(
            "train_value_model",
            settings=partial(recontrol.value_model_settings, CONFIG),
            entries=partial(recontrol.value_model_code, CONFIG),
        ),
    script:
        "../scripts/recontrol/train_value_model.py"


rule prepare_value_model:
    input:
        model=paths.model("{model}"),
        source=partial(recontrol.released_value_model_file, CONFIG),
    output:
        **with_record(
            value_model=directory(paths.value_model("{model}", "{value_model}"))
        ),
    log:
        log_of("prepare_value_model", "{model}", "{value_model}"),
    benchmark:
        benchmark_of("prepare_value_model", "{model}", "{value_model}")
    wildcard_constraints:
        value_model=one_of(common.names_of_method(CONFIG, "value_models", "released")),
    conda:
        ENVIRONMENT
    params:
        **stage(
            "prepare_value_model",
            settings=partial(recontrol.released_value_model_settings, CONFIG),
            entries=partial(recontrol.value_model_code, CONFIG),
        ),
    script:
        "../scripts/recontrol/prepare_value_model.py"


rule fit_direction:
    input:
        unpack(partial(recontrol.learning_inputs, CONFIG, "direction")),
    output:
        **with_record(direction=paths.direction("{model}", "{direction}")),
    log:
        log_of("fit_direction", "{model}", "{direction}"),
    benchmark:
        benchmark_of("fit_direction", "{model}", "{direction}")
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(common.model_resources, CONFIG)),
    params:
        **stage("fit_direction", settings=partial(recontrol.direction_settings, CONFIG)),
    script:
        "../scripts/recontrol/fit_direction.py"


rule choose_strength:
    input:
        unpack(partial(recontrol.choice_inputs, CONFIG)),
        model=paths.model("{model}"),
        value_model=partial(recontrol.control_value_model, CONFIG),
        direction=partial(recontrol.control_direction, CONFIG),
        guidance_reward=partial(recontrol.control_reward_model, CONFIG),
    output:
        **with_record(strength=paths.strength("{model}", "{control}")),
    log:
        log_of("choose_strength", "{model}", "{control}"),
    benchmark:
        benchmark_of("choose_strength", "{model}", "{control}")
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(common.model_resources, CONFIG)),
        endpoint_options=partial(recontrol.control_endpoint_options, CONFIG),
    params:
        **stage(
            "choose_strength",
            settings=partial(recontrol.choice_settings, CONFIG),
            entries=partial(recontrol.choice_code, CONFIG),
        ),
    script:
        "../scripts/recontrol/choose_strength.py"


rule decode:
    input:
        model=paths.model("{model}"),
        data=paths.data("{dataset}"),
        value_model=partial(recontrol.control_value_model, CONFIG),
        direction=partial(recontrol.control_direction, CONFIG),
        guidance_reward=partial(recontrol.control_reward_model, CONFIG),
        strength=partial(recontrol.control_strength, CONFIG),
        overlap=ancient(paths.overlap("{dataset}")),
    output:
        **with_record(responses=paths.responses("{model}", "{dataset}", "{control}")),
    log:
        log_of("decode", "{model}", "{dataset}", "{control}"),
    benchmark:
        benchmark_of("decode", "{model}", "{dataset}", "{control}")
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(common.model_resources, CONFIG)),
        endpoint_options=partial(recontrol.control_endpoint_options, CONFIG),
    params:
        **stage(
            "decode",
            settings=partial(recontrol.decoding_settings, CONFIG),
            entries=partial(recontrol.control_code, CONFIG),
        ),
    script:
        "../scripts/recontrol/decode.py"
