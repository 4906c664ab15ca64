# Tables, figures and the report of a study; the study built last is also shown at the top of results/.


rule make_tables:
    input:
        results=PLAN.inputs(),
    output:
        tables=directory(paths.study("{study}", "tables")),
        record=paths.record(paths.study("{study}", "tables")),
    log:
        "results/logs/make_tables/{study}.log",
    benchmark:
        "results/benchmarks/make_tables/{study}.tsv"
    conda:
        "../envs/rebend.yaml"
    params:
        settings=PLAN.summary(published="resources/published"),
        code=code_digest(SCRIPTS / "report/make_tables.py"),
        progress=paths.PROGRESS,
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
        "results/logs/make_figures/{study}.log",
    benchmark:
        "results/benchmarks/make_figures/{study}.tsv"
    conda:
        "../envs/rebend.yaml"
    params:
        settings=PLAN.summary(published="resources/published"),
        code=code_digest(SCRIPTS / "report/make_figures.py"),
        progress=paths.PROGRESS,
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
        "results/logs/make_report/{study}.log",
    benchmark:
        "results/benchmarks/make_report/{study}.tsv"
    conda:
        "../envs/rebend.yaml"
    params:
        settings=PLAN.summary(published="resources/published"),
        code=code_digest(SCRIPTS / "report/make_report.py"),
        progress=paths.PROGRESS,
    script:
        "../scripts/report/make_report.py"


# The last step is one of this process, so that a run whose end was done by jobs of a killed one still looks at them.
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
        "results/logs/publish.log",
    conda:
        "../envs/rebend.yaml"
    shell:
        "( cp -r {input.tables}/. {output.tables} && cp -r {input.figures}/. {output.figures}"
        " && cp {input.report} {output.report} ) > {log} 2>&1"
