# What comes from the hub and from addresses. These jobs alone use the network, and they run where Snakemake does.
localrules:
    fetch,
    fetch_asset,


rule fetch:
    input:
        [paths.asset(name) for name in PLAN.assets],


rule fetch_asset:
    output:
        manifest=paths.asset("{asset}"),
        record=paths.record(paths.asset("{asset}")),
    log:
        "results/logs/fetch_asset/{asset}.log",
    benchmark:
        "results/benchmarks/fetch_asset/{asset}.tsv"
    wildcard_constraints:
        asset=one_of(PLAN.all_assets),
    conda:
        "../envs/rebend.yaml"
    params:
        settings=lambda wildcards: PLAN.all_assets[wildcards.asset].settings(),
        code=code_digest(SCRIPTS / "data/fetch_asset.py"),
        progress=paths.PROGRESS,
        files=paths.ASSETS,
        lock=paths.ASSET_LOCK,
    script:
        "../scripts/data/fetch_asset.py"
