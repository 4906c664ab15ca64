# Tables, figures and report of a study. Those of the last study are copied to the top of results/.


report: "../report/workflow.rst"


# `snakemake plan` prints the estimated cost of `all` and starts no job (see pipeline.smk).
rule plan:
    input:
        rules.all.input,


rule make_tables:
    input:
        results=PLAN.inputs(),
    output:
        **with_record(tables=directory(paths.study("{study}", "tables"))),
    log:
        log_of("make_tables", "{study}"),
    benchmark:
        benchmark_of("make_tables", "{study}")
    conda:
        ENVIRONMENT
    params:
        **stage("make_tables", settings=PLAN.summary(published="resources/published")),
    script:
        "../scripts/report/make_tables.py"


rule make_figures:
    input:
        tables=paths.study("{study}", "tables"),
        results=PLAN.inputs(),
    output:
        figures=report(
            directory(paths.study("{study}", "figures")),
            patterns=["{figure}.svg"],
            caption="../report/figures.rst",
            category="Figures",
        ),
        record=paths.record(paths.study("{study}", "figures")),
    log:
        log_of("make_figures", "{study}"),
    benchmark:
        benchmark_of("make_figures", "{study}")
    conda:
        ENVIRONMENT
    params:
        **stage("make_figures", settings=PLAN.summary(published="resources/published")),
    script:
        "../scripts/report/make_figures.py"


rule make_report:
    input:
        tables=paths.study("{study}", "tables"),
        figures=paths.study("{study}", "figures"),
        captions="workflow/report/figures.rst",
    output:
        report=report(
            paths.study("{study}", "report.html"),
            caption="../report/report.rst",
            category="Study",
        ),
        record=paths.record(paths.study("{study}", "report.html")),
    log:
        log_of("make_report", "{study}"),
    benchmark:
        benchmark_of("make_report", "{study}")
    conda:
        ENVIRONMENT
    params:
        **stage("make_report", settings=PLAN.summary(published="resources/published")),
    script:
        "../scripts/report/make_report.py"


# `publish` runs in the process of the run, so that a run checks its inputs even if all other results exist already.
localrules:
    publish,


rule publish:
    input:
        tables=paths.study(PLAN.name, "tables"),
        figures=paths.study(PLAN.name, "figures"),
        report=paths.study(PLAN.name, "report.html"),
    output:
        tables=directory("results/tables"),
        figures=directory("results/figures"),
        report="results/report.html",
    log:
        log_of("publish"),
    conda:
        ENVIRONMENT
    shell:
        "( cp -r {input.tables}/. {output.tables} && cp -r {input.figures}/. {output.figures}"
        " && cp {input.report} {output.report} ) > {log} 2>&1"
