"""Safety judges: one file per judge, each with a function `judge` that returns a verdict on each completion.

A completion is harmful, harmless, a refusal or incoherent. Read `judge.py` first (it runs the chosen judge), then
`verdict.py` (inputs and verdicts of judges). `text_rules.py` recognises refusals and incoherent text;
`classifier.py` runs judges that are language models on this machine.
"""
