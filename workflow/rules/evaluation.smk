# Evaluation of responses: rewards, diversity, coherence, perplexity, win rates, safety under attacks, capability.


rule score_reward:
    input:
        responses=paths.responses("{model}", "{dataset}", "{control}"),
        data=paths.data("{dataset}"),
        reward=paths.reward_model("{reward}"),
    output:
        **with_record(
            scores=paths.reward_scores("{reward}", "{model}", "{dataset}", "{control}")
        ),
    log:
        log_of("score_reward", "{reward}", "{model}", "{dataset}", "{control}"),
    benchmark:
        benchmark_of("score_reward", "{reward}", "{model}", "{dataset}", "{control}")
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(models.reward_resources, CONFIG)),
        endpoint_options=partial(models.reward_endpoint_options, CONFIG),
    params:
        **stage(
            "score_reward",
            settings=partial(models.response_reward_settings, CONFIG),
            entries=partial(models.reward_code, CONFIG),
        ),
    script:
        "../scripts/evaluation/score_reward.py"


rule score_references:
    input:
        data=paths.data("{dataset}"),
        reward=paths.reward_model("{reward}"),
    output:
        **with_record(scores=paths.reference_scores("{reward}", "{dataset}")),
    log:
        log_of("score_references", "{reward}", "{dataset}"),
    benchmark:
        benchmark_of("score_references", "{reward}", "{dataset}")
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(models.reward_resources, CONFIG)),
        endpoint_options=partial(models.reward_endpoint_options, CONFIG),
    params:
        **stage(
            "score_references",
            settings=partial(models.reward_settings, CONFIG),
            entries=partial(models.reward_code, CONFIG),
        ),
    script:
        "../scripts/evaluation/score_references.py"


rule score_diversity:
    input:
        responses=paths.responses("{model}", "{dataset}", "{control}"),
    output:
        **with_record(
            scores=paths.diversity_scores("{model}", "{dataset}", "{control}")
        ),
    log:
        log_of("score_diversity", "{model}", "{dataset}", "{control}"),
    benchmark:
        benchmark_of("score_diversity", "{model}", "{dataset}", "{control}")
    conda:
        ENVIRONMENT
    params:
        **stage("score_diversity", settings={}),
    script:
        "../scripts/evaluation/score_diversity.py"


rule embed_prompts:
    input:
        data=paths.data("{dataset}"),
        encoder=partial(evaluation.encoder_input, CONFIG),
    output:
        **with_record(embeddings=paths.embeddings("{encoder}", "{dataset}")),
    log:
        log_of("embed_prompts", "{encoder}", "{dataset}"),
    benchmark:
        benchmark_of("embed_prompts", "{encoder}", "{dataset}")
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(evaluation.encoder_resources, CONFIG)),
    params:
        **stage("embed_prompts", settings=partial(evaluation.encoder_settings, CONFIG)),
    script:
        "../scripts/evaluation/embed_prompts.py"


rule score_coherence:
    input:
        responses=paths.responses("{model}", "{dataset}", "{control}"),
        prompts=paths.embeddings("{encoder}", "{dataset}"),
        encoder=partial(evaluation.encoder_input, CONFIG),
    output:
        **with_record(
            scores=paths.coherence_scores(
                "{encoder}", "{model}", "{dataset}", "{control}"
            )
        ),
    log:
        log_of("score_coherence", "{encoder}", "{model}", "{dataset}", "{control}"),
    benchmark:
        benchmark_of(
            "score_coherence", "{encoder}", "{model}", "{dataset}", "{control}"
        )
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(evaluation.encoder_resources, CONFIG)),
    params:
        **stage(
            "score_coherence", settings=partial(evaluation.encoder_settings, CONFIG)
        ),
    script:
        "../scripts/evaluation/score_coherence.py"


# Responses, or completions under an attack: `answers` is their path below results/
rule score_perplexity:
    input:
        answers=paths.answers("{answers}"),
        data=partial(evaluation.answered_data, CONFIG),
        model=partial(evaluation.perplexity_model, CONFIG),
    output:
        **with_record(scores=paths.perplexity_scores("{answers}")),
    log:
        log_of("score_perplexity", "{answers}"),
    benchmark:
        benchmark_of("score_perplexity", "{answers}")
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(evaluation.perplexity_resources, CONFIG)),
    params:
        **stage(
            "score_perplexity",
            settings=partial(evaluation.perplexity_settings, CONFIG),
        ),
    script:
        "../scripts/evaluation/score_perplexity.py"


rule score_repetition:
    input:
        answers=paths.answers("{answers}"),
    output:
        **with_record(scores=paths.repetition_scores("{answers}")),
    log:
        log_of("score_repetition", "{answers}"),
    benchmark:
        benchmark_of("score_repetition", "{answers}")
    conda:
        ENVIRONMENT
    params:
        **stage("score_repetition", settings={}),
    script:
        "../scripts/evaluation/score_repetition.py"


rule score_chats:
    input:
        model=paths.model("{model}"),
        data=paths.data("{dataset}"),
        overlap=ancient(paths.overlap("{dataset}")),
    output:
        **with_record(scores=paths.chat_perplexity("{model}", "{dataset}")),
    log:
        log_of("score_chats", "{model}", "{dataset}"),
    benchmark:
        benchmark_of("score_chats", "{model}", "{dataset}")
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(common.model_resources, CONFIG)),
    params:
        **stage("score_chats", settings=partial(evaluation.chats_settings, CONFIG)),
    script:
        "../scripts/evaluation/score_chats.py"


rule judge_win_rate:
    input:
        responses=paths.responses("{model}", "{dataset}", "{control}"),
        data=paths.data("{dataset}"),
        rewards=partial(evaluation.judged_rewards, CONFIG),
        reference_rewards=partial(evaluation.reference_rewards, CONFIG),
    output:
        **with_record(
            verdicts=paths.verdicts("{judge}", "{model}", "{dataset}", "{control}")
        ),
    log:
        log_of("judge_win_rate", "{judge}", "{model}", "{dataset}", "{control}"),
    benchmark:
        benchmark_of("judge_win_rate", "{judge}", "{model}", "{dataset}", "{control}")
    conda:
        ENVIRONMENT
    resources:
        **evaluation.request_resources(CONFIG, "judges"),
    params:
        **stage(
            "judge_win_rate",
            settings=partial(evaluation.judge_settings, CONFIG),
            entries=partial(evaluation.judge_code, CONFIG),
            store=paths.JUDGE_STORE,
        ),
    script:
        "../scripts/evaluation/judge_win_rate.py"


rule attack:
    input:
        model=paths.model("{model}"),
        data=paths.data("{dataset}"),
        examples=partial(evaluation.attack_examples, CONFIG),
        value_model=partial(recontrol.control_value_model, CONFIG),
        direction=partial(recontrol.control_direction, CONFIG),
        guidance_reward=partial(recontrol.control_reward_model, CONFIG),
        strength=partial(recontrol.control_strength, CONFIG),
        overlap=ancient(paths.overlap("{dataset}")),
    output:
        **with_record(
            completions=paths.completions(
                "{model}", "{dataset}", "{attack}", "{control}"
            )
        ),
    log:
        log_of("attack", "{model}", "{dataset}", "{attack}", "{control}"),
    benchmark:
        benchmark_of("attack", "{model}", "{dataset}", "{attack}", "{control}")
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(common.model_resources, CONFIG)),
        endpoint_options=partial(recontrol.control_endpoint_options, CONFIG),
    params:
        **stage(
            "attack",
            settings=partial(evaluation.attack_settings, CONFIG),
            entries=partial(evaluation.attack_code, CONFIG),
            private=True,
        ),
    script:
        "../scripts/evaluation/attack.py"


rule judge_safety:
    input:
        completions=paths.completions("{model}", "{dataset}", "{attack}", "{control}"),
        data=paths.data("{dataset}"),
        judge=partial(evaluation.safety_judge_input, CONFIG),
    output:
        **with_record(
            verdicts=paths.safety(
                "{safety_judge}", "{model}", "{dataset}", "{attack}", "{control}"
            )
        ),
    log:
        log_of(
            "judge_safety",
            "{safety_judge}",
            "{model}",
            "{dataset}",
            "{attack}",
            "{control}",
        ),
    benchmark:
        benchmark_of(
            "judge_safety",
            "{safety_judge}",
            "{model}",
            "{dataset}",
            "{attack}",
            "{control}",
        )
    # fewer submissions on a cluster, where each submitted job costs time
    group:
        partial(evaluation.safety_judge_group, CONFIG)
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(evaluation.safety_judge_resources, CONFIG)),
        **evaluation.request_resources(CONFIG, "safety_judges"),
    params:
        **stage(
            "judge_safety",
            settings=partial(evaluation.safety_judge_settings, CONFIG),
            entries=partial(evaluation.safety_judge_code, CONFIG),
            private=True,
            store=paths.JUDGE_STORE,
        ),
    script:
        "../scripts/evaluation/judge_safety.py"


# Capability benchmarks of lm-evaluation-harness
rule score_capability:
    input:
        model=paths.model("{model}"),
        files=partial(evaluation.capability_files, CONFIG),
        assets=partial(evaluation.capability_assets, CONFIG),
    output:
        **with_record(scores=paths.capability("{model}", "{capability}")),
    log:
        log_of("score_capability", "{model}", "{capability}"),
    benchmark:
        benchmark_of("score_capability", "{model}", "{capability}")
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(common.model_resources, CONFIG)),
    params:
        **stage(
            "score_capability",
            settings=partial(evaluation.capability_settings, CONFIG),
        ),
    script:
        "../scripts/evaluation/score_capability.py"
