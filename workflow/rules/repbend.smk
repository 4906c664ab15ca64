# RepBend (arXiv:2504.01550) and its baselines: train adapters, merge them, project hidden states.


rule train_adapter:
    input:
        model=paths.model("{base}"),
        examples=partial(repbend.training_data, CONFIG, "examples"),
        paired_examples=partial(repbend.training_data, CONFIG, "paired_examples"),
        retain_chats=partial(repbend.training_data, CONFIG, "retain_chats"),
        reinforced=partial(repbend.reinforced_adapter, CONFIG),
    output:
        **with_record(adapter=directory(paths.adapter("{base}", "{adapter}"))),
    log:
        log_of("train_adapter", "{base}", "{adapter}"),
    benchmark:
        benchmark_of("train_adapter", "{base}", "{adapter}")
    wildcard_constraints:
        adapter=one_of(repbend.trained_names(CONFIG)),
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(repbend.training_resources, CONFIG)),
        # ranks and DeepSpeed change the speed of a training, not its result, so they are not in its settings
        ranks=partial(repbend.ranks, CONFIG),
        zero_config=partial(repbend.zero_config, CONFIG, HOME / "config/deepspeed"),
    params:
        **stage(
            "train_adapter",
            settings=partial(repbend.training_settings, CONFIG),
            entries=partial(repbend.adapter_code, CONFIG),
        ),
    script:
        "../scripts/repbend/train_adapter.py"


rule orthogonalise_weights:
    input:
        model=paths.model("{base}"),
        examples=partial(repbend.training_data, CONFIG, "examples"),
    output:
        **with_record(adapter=directory(paths.adapter("{base}", "{adapter}"))),
    log:
        log_of("orthogonalise_weights", "{base}", "{adapter}"),
    benchmark:
        benchmark_of("orthogonalise_weights", "{base}", "{adapter}")
    wildcard_constraints:
        adapter=one_of(
            common.names_of_method(CONFIG, "adapters", "weight_orthogonalisation")
        ),
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(common.model_resources, CONFIG)),
    params:
        **stage(
            "orthogonalise_weights",
            settings=partial(repbend.training_settings, CONFIG),
            entries=partial(repbend.adapter_code, CONFIG),
        ),
    script:
        "../scripts/repbend/orthogonalise_weights.py"


rule prepare_adapter:
    input:
        model=paths.model("{base}"),
        source=partial(repbend.adapter_files, CONFIG),
        assets=partial(repbend.adapter_assets, CONFIG),
    output:
        **with_record(adapter=directory(paths.adapter("{base}", "{adapter}"))),
    log:
        log_of("prepare_adapter", "{base}", "{adapter}"),
    benchmark:
        benchmark_of("prepare_adapter", "{base}", "{adapter}")
    wildcard_constraints:
        adapter=one_of(common.names_of_method(CONFIG, "adapters", "released")),
    conda:
        ENVIRONMENT
    params:
        **stage(
            "prepare_adapter",
            settings=partial(repbend.released_adapter_settings, CONFIG),
            entries=partial(repbend.adapter_code, CONFIG),
        ),
    script:
        "../scripts/repbend/prepare_adapter.py"


rule combine_adapters:
    input:
        adapters=partial(repbend.combined_adapters, CONFIG),
    output:
        **with_record(adapter=directory(paths.adapter("{base}", "{adapter}"))),
    log:
        log_of("combine_adapters", "{base}", "{adapter}"),
    benchmark:
        benchmark_of("combine_adapters", "{base}", "{adapter}")
    wildcard_constraints:
        adapter=one_of(common.names_of_method(CONFIG, "adapters", "task_arithmetic")),
    conda:
        ENVIRONMENT
    params:
        **stage(
            "combine_adapters",
            settings=partial(repbend.combination_settings, CONFIG),
            entries=partial(repbend.adapter_code, CONFIG),
        ),
    script:
        "../scripts/repbend/combine_adapters.py"


rule merge_adapter:
    input:
        model=paths.model("{base}"),
        adapter=paths.adapter("{base}", "{adapter}"),
    output:
        **with_record(model=directory(paths.model("{base}+{adapter}"))),
    log:
        log_of("merge_adapter", "{base}", "{adapter}"),
    benchmark:
        benchmark_of("merge_adapter", "{base}", "{adapter}")
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(common.model_resources, CONFIG)),
    params:
        **stage("merge_adapter", settings=partial(repbend.merge_settings, CONFIG)),
    script:
        "../scripts/repbend/merge_adapter.py"


rule project_hidden_states:
    input:
        base=paths.model("{base}"),
        adapted=paths.model("{base}+{adapter}"),
        data=paths.data("{dataset}"),
    output:
        **with_record(states=paths.states("{base}", "{adapter}", "{dataset}")),
    log:
        log_of("project_hidden_states", "{base}", "{adapter}", "{dataset}"),
    benchmark:
        benchmark_of("project_hidden_states", "{base}", "{adapter}", "{dataset}")
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(common.model_resources, CONFIG)),
    params:
        **stage(
            "project_hidden_states",
            settings=partial(repbend.projection_settings, CONFIG),
        ),
    script:
        "../scripts/repbend/project_hidden_states.py"
