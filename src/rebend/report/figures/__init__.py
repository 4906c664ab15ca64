"""One file per family of figures, drawn from the tables and from the curves of training.

`all` has the list of figures, `style` their look. Read `all` first.
"""
