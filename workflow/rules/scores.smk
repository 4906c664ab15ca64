# One score per response: reward, diversity, coherence, win rate.


rule score_reward:
    input:
        responses=paths.responses("{model}", "{dataset}", "{control}"),
        data=paths.data("{dataset}"),
        reward=paths.reward_model("{reward}"),
    output:
        scores=paths.reward_scores("{reward}", "{model}", "{dataset}", "{control}"),
        record=paths.record(
            paths.reward_scores("{reward}", "{model}", "{dataset}", "{control}")
        ),
    log:
        "results/logs/score_reward/{reward}/{model}/{dataset}/{control}.log",
    benchmark:
        "results/benchmarks/score_reward/{reward}/{model}/{dataset}/{control}.tsv"
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: CONFIG["rewards"][wildcards.reward].resources),
        asking=lambda wildcards: asking([CONFIG["rewards"][wildcards.reward]]),
    params:
        settings=lambda wildcards: {
            "reward": settings(CONFIG["rewards"][wildcards.reward])
        },
        code=code_digest(SCRIPTS / "evaluation/score_reward.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/evaluation/score_reward.py"


rule score_references:
    input:
        data=paths.data("{dataset}"),
        reward=paths.reward_model("{reward}"),
    output:
        scores=paths.reference_scores("{reward}", "{dataset}"),
        record=paths.record(paths.reference_scores("{reward}", "{dataset}")),
    log:
        "results/logs/score_references/{reward}/{dataset}.log",
    benchmark:
        "results/benchmarks/score_references/{reward}/{dataset}.tsv"
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: CONFIG["rewards"][wildcards.reward].resources),
        asking=lambda wildcards: asking([CONFIG["rewards"][wildcards.reward]]),
    params:
        settings=lambda wildcards: {
            "reward": settings(CONFIG["rewards"][wildcards.reward])
        },
        code=code_digest(SCRIPTS / "evaluation/score_references.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/evaluation/score_references.py"


rule score_diversity:
    input:
        responses=paths.responses("{model}", "{dataset}", "{control}"),
    output:
        scores=paths.diversity_scores("{model}", "{dataset}", "{control}"),
        record=paths.record(paths.diversity_scores("{model}", "{dataset}", "{control}")),
    log:
        "results/logs/score_diversity/{model}/{dataset}/{control}.log",
    benchmark:
        "results/benchmarks/score_diversity/{model}/{dataset}/{control}.tsv"
    conda:
        "../envs/rebend.yaml"
    params:
        settings={},
        code=code_digest(SCRIPTS / "evaluation/score_diversity.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/evaluation/score_diversity.py"


rule embed_prompts:
    input:
        data=paths.data("{dataset}"),
        encoder=lambda wildcards: PLAN.encoder_input(wildcards.encoder),
    output:
        embeddings=paths.embeddings("{encoder}", "{dataset}"),
        record=paths.record(paths.embeddings("{encoder}", "{dataset}")),
    log:
        "results/logs/embed_prompts/{encoder}/{dataset}.log",
    benchmark:
        "results/benchmarks/embed_prompts/{encoder}/{dataset}.tsv"
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: CONFIG["encoders"][wildcards.encoder].resources),
    params:
        settings=lambda wildcards: {
            "encoder": settings(CONFIG["encoders"][wildcards.encoder])
        },
        code=code_digest(SCRIPTS / "evaluation/embed_prompts.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/evaluation/embed_prompts.py"


rule score_coherence:
    input:
        responses=paths.responses("{model}", "{dataset}", "{control}"),
        prompts=paths.embeddings("{encoder}", "{dataset}"),
        encoder=lambda wildcards: PLAN.encoder_input(wildcards.encoder),
    output:
        scores=paths.coherence_scores("{encoder}", "{model}", "{dataset}", "{control}"),
        record=paths.record(
            paths.coherence_scores("{encoder}", "{model}", "{dataset}", "{control}")
        ),
    log:
        "results/logs/score_coherence/{encoder}/{model}/{dataset}/{control}.log",
    benchmark:
        "results/benchmarks/score_coherence/{encoder}/{model}/{dataset}/{control}.tsv"
    conda:
        "../envs/rebend.yaml"
    resources:
        **resources(lambda wildcards: CONFIG["encoders"][wildcards.encoder].resources),
    params:
        settings=lambda wildcards: {
            "encoder": settings(CONFIG["encoders"][wildcards.encoder])
        },
        code=code_digest(SCRIPTS / "evaluation/score_coherence.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/evaluation/score_coherence.py"


rule judge_win_rate:
    input:
        responses=paths.responses("{model}", "{dataset}", "{control}"),
        data=paths.data("{dataset}"),
        rewards=lambda wildcards: PLAN.judged_rewards(wildcards),
        reference_rewards=lambda wildcards: PLAN.reference_rewards(wildcards),
    output:
        verdicts=paths.verdicts("{judge}", "{model}", "{dataset}", "{control}"),
        record=paths.record(
            paths.verdicts("{judge}", "{model}", "{dataset}", "{control}")
        ),
    log:
        "results/logs/judge_win_rate/{judge}/{model}/{dataset}/{control}.log",
    benchmark:
        "results/benchmarks/judge_win_rate/{judge}/{model}/{dataset}/{control}.tsv"
    conda:
        "../envs/rebend.yaml"
    resources:  # they change how a judge is asked, never what it says, and so are no settings
        concurrency=lambda wildcards: getattr(
            CONFIG["judges"][wildcards.judge], "concurrency", 1
        ),
        retries=lambda wildcards: getattr(
            CONFIG["judges"][wildcards.judge], "retries", 0
        ),
        limits=lambda wildcards: limits_of(CONFIG["judges"][wildcards.judge]),
    params:
        settings=lambda wildcards: {
            "judge": settings(CONFIG["judges"][wildcards.judge], without=LIMITS)
        },
        code=code_digest(SCRIPTS / "evaluation/judge_win_rate.py"),
        progress=paths.PROGRESS,
        store=paths.JUDGE_STORE,
    script:
        "../scripts/evaluation/judge_win_rate.py"
