# Assets from the hub, Python packages and addresses, and data sets in one schema per kind.
# Four rules make `results/data/{dataset}.parquet`: which one depends on the block's reader.
from rebend.config.datasets import (
    DatasetBlock,
    JoinedBlock,
    SampledChatsBlock,
    SampledPairsBlock,
)


# Only these jobs use the network. They run on the machine of Snakemake.
localrules:
    fetch,
    fetch_asset,


rule fetch:
    input:
        [paths.asset(name) for name in PLAN.assets],


rule fetch_asset:
    output:
        **with_record(manifest=paths.asset("{asset}")),
    log:
        log_of("fetch_asset", "{asset}"),
    benchmark:
        benchmark_of("fetch_asset", "{asset}")
    wildcard_constraints:
        asset=one_of(PLAN.all_assets),
    conda:
        ENVIRONMENT
    params:
        **stage(
            "fetch_asset",
            settings=lambda wildcards: PLAN.all_assets[wildcards.asset].settings(),
            network=True,
            files=paths.ASSETS,
            lock=paths.ASSET_LOCK,
        ),
    script:
        "../scripts/data/fetch_asset.py"


rule prepare_dataset:
    input:
        source=partial(data.dataset_source, CONFIG),
        reference=partial(data.dataset_reference, CONFIG),
        assets=partial(data.dataset_assets, CONFIG),
        without=partial(data.dataset_without, CONFIG),
    output:
        **with_record(data=paths.data("{dataset}")),
    log:
        log_of("prepare_dataset", "{dataset}"),
    benchmark:
        benchmark_of("prepare_dataset", "{dataset}")
    wildcard_constraints:
        dataset=one_of(made_datasets.names_of(CONFIG, DatasetBlock)),
    priority: 1  # data first, so that prompts in two data sets are refused before long trainings
    conda:
        ENVIRONMENT
    params:
        **stage(
            "prepare_dataset",
            settings=partial(data.dataset_settings, CONFIG),
            entries=partial(data.dataset_code, CONFIG),
        ),
    script:
        "../scripts/data/prepare_dataset.py"


rule join_datasets:
    input:
        parts=partial(made_datasets.joined_parts, CONFIG),
    output:
        **with_record(data=paths.data("{dataset}")),
    log:
        log_of("join_datasets", "{dataset}"),
    benchmark:
        benchmark_of("join_datasets", "{dataset}")
    wildcard_constraints:
        dataset=one_of(made_datasets.names_of(CONFIG, JoinedBlock)),
    priority: 1  # data first, so that prompts in two data sets are refused before long trainings
    conda:
        ENVIRONMENT
    params:
        **stage(
            "join_datasets", settings=partial(made_datasets.joined_settings, CONFIG)
        ),
    script:
        "../scripts/data/join_datasets.py"


# The file holds harmful answers, so that only its owner can read it.
rule sample_pairs:
    input:
        model=partial(made_datasets.sampled_model, CONFIG),
        prompts=partial(made_datasets.sampled_prompts, CONFIG),
        judge=partial(made_datasets.sampled_judge, CONFIG),
        refusals=partial(made_datasets.pairs_refusals, CONFIG),
        without=partial(made_datasets.sampled_without, CONFIG),
        embeddings=partial(made_datasets.sampled_embeddings, CONFIG),
        near=partial(made_datasets.sampled_near, CONFIG),
    output:
        **with_record(data=paths.data("{dataset}")),
    log:
        log_of("sample_pairs", "{dataset}"),
    benchmark:
        benchmark_of("sample_pairs", "{dataset}")
    wildcard_constraints:
        dataset=one_of(made_datasets.names_of(CONFIG, SampledPairsBlock)),
    priority: 1  # data first, so that prompts in two data sets are refused before long trainings
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(made_datasets.sampled_resources, CONFIG)),
        least=partial(made_datasets.sampled_least, CONFIG),
    params:
        **stage(
            "sample_pairs",
            settings=partial(made_datasets.sampled_settings, CONFIG),
            entries=partial(made_datasets.sampled_code, CONFIG),
            private="files",
        ),
    script:
        "../scripts/evaluation/sample_pairs.py"


# Harmless prompts only, so that the file is as readable as other data.
rule sample_chats:
    input:
        model=partial(made_datasets.sampled_model, CONFIG),
        prompts=partial(made_datasets.sampled_prompts, CONFIG),
        judge=partial(made_datasets.sampled_judge, CONFIG),
        without=partial(made_datasets.sampled_without, CONFIG),
        embeddings=partial(made_datasets.sampled_embeddings, CONFIG),
        near=partial(made_datasets.sampled_near, CONFIG),
    output:
        **with_record(data=paths.data("{dataset}")),
    log:
        log_of("sample_chats", "{dataset}"),
    benchmark:
        benchmark_of("sample_chats", "{dataset}")
    wildcard_constraints:
        dataset=one_of(made_datasets.names_of(CONFIG, SampledChatsBlock)),
    priority: 1  # data first, so that prompts in two data sets are refused before long trainings
    conda:
        ENVIRONMENT
    resources:
        **resources(partial(made_datasets.sampled_resources, CONFIG)),
        least=partial(made_datasets.sampled_least, CONFIG),
    params:
        **stage(
            "sample_chats",
            settings=partial(made_datasets.sampled_settings, CONFIG),
            entries=partial(made_datasets.sampled_code, CONFIG),
        ),
    script:
        "../scripts/evaluation/sample_chats.py"


rule check_overlap:
    input:
        data=paths.data("{dataset}"),
        learnt=partial(data.learnt_data, PLAN),
    output:
        **with_record(overlap=paths.overlap("{dataset}")),
    log:
        log_of("check_overlap", "{dataset}"),
    benchmark:
        benchmark_of("check_overlap", "{dataset}")
    priority: 1  # before the stages that wait for nothing else
    conda:
        ENVIRONMENT
    params:
        **stage("check_overlap", settings=partial(data.overlap_settings, PLAN)),
    script:
        "../scripts/data/check_overlap.py"
