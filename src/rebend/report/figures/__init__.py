"""Figures, drawn from the tables and the training curves; one file per family of figures.

`all` contains the list of figures, `style` their style. Read `all` first.
"""
