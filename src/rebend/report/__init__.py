"""Tables, figures and one page from finished scores, without torch.

`metrics` is the list of metrics. `measurements` reads the score files of a study into one long table, and `tables/`
and `figures/` are computed from it. `published` looks up the numbers printed in the papers. `html/` writes the page and
its sentences. Read `metrics` and `tables/table` first.
"""
