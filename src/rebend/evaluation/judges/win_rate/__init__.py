"""Win-rate judges: one file per judge, each with a function `judge` that compares responses with preferred answers.

Read `judge.py` first (it draws rows and runs the chosen judge), then `verdict.py` (states of a row). `prompt.py`
contains the prompts of the judge `openai`, `statistics.py` the win rate with its intervals.
"""
