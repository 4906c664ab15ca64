# Models, reward models and encoders: checked checkpoints, small models trained here, and reward endpoints.


rule prepare_model:
    input:
        source=partial(models.checkpoint_files, CONFIG),
        assets=partial(models.checkpoint_assets, CONFIG),
    output:
        **with_record(model=directory(f"{paths.ROOT}/{{place}}")),
    log:
        log_of("prepare_model", "{place}"),
    benchmark:
        benchmark_of("prepare_model", "{place}")
    wildcard_constraints:
        place=one_of(models.prepared_checkpoints(CONFIG)),
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(models.checkpoint_resources, CONFIG)),
    params:
        **stage("prepare_model", settings=partial(models.checkpoint_settings, CONFIG)),
    script:
        "../scripts/models/prepare_model.py"


rule train_tiny_model:
    input:
        data=partial(models.tiny_model_data, CONFIG),
    output:
        **with_record(model=directory(paths.model("{model}"))),
    log:
        log_of("train_tiny_model", "{model}"),
    benchmark:
        benchmark_of("train_tiny_model", "{model}")
    wildcard_constraints:
        model=one_of(models.names_with(CONFIG, "models", "tiny")),
    conda:
        ENVIRONMENT
    threads: 2
    params:
        **stage(
            "train_tiny_model", settings=partial(models.tiny_model_settings, CONFIG)
        ),
    script:
        "../scripts/models/train_tiny_model.py"


rule train_reward_model:
    input:
        model=partial(models.reward_base, CONFIG),
        data=partial(models.reward_pairs, CONFIG),
        held_out=partial(models.reward_held_out, CONFIG),
    output:
        **with_record(model=directory(paths.reward_model("{reward}"))),
    log:
        log_of("train_reward_model", "{reward}"),
    benchmark:
        benchmark_of("train_reward_model", "{reward}")
    wildcard_constraints:
        reward=one_of(models.trained_rewards(CONFIG)),
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(models.reward_resources, CONFIG)),
    params:
        **stage(
            "train_reward_model",
            settings=partial(models.reward_training_settings, CONFIG),
        ),
    script:
        "../scripts/models/train_reward_model.py"


rule check_reward_endpoint:
    output:
        **with_record(model=directory(paths.reward_model("{reward}"))),
    log:
        log_of("check_reward_endpoint", "{reward}"),
    benchmark:
        benchmark_of("check_reward_endpoint", "{reward}")
    wildcard_constraints:
        reward=one_of(models.names_with(CONFIG, "rewards", "http")),
    priority: 1  # first, so that an unreachable endpoint fails early
    conda:
        ENVIRONMENT
    resources:
        endpoint_options=partial(models.reward_endpoint_options, CONFIG),
    params:
        **stage(
            "check_reward_endpoint", settings=partial(models.reward_settings, CONFIG)
        ),
    script:
        "../scripts/models/check_reward_endpoint.py"
