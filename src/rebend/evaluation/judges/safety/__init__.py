"""Safety judges: one file per judge, each with a function `judge` that says what each completion is.

A completion is harmful, harmless, a refusal or incoherent. Read `judge.py` first (the frame that runs the chosen
judge), then `verdict.py` (what a judge takes and returns). `text_rules.py` recognises refusals and incoherent text;
`classifier.py` runs judges that are language models on this machine.
"""
