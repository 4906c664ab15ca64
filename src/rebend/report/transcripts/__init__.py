"""Example transcripts: harmless prompts of a study, and what each compared model answers to them.

`rows.py` chooses the prompts and reads the answers; `page.py` writes them as text that cannot break a page.
"""
