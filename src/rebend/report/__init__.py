"""Tables, figures and one page from finished scores, without torch.

`metrics` is the list of metrics, `measurements` reads the score files of a study into one long table, `tables/` and
`figures/` are made from it, `published` finds the numbers that the papers print, `html/` writes the page and its
sentences. Read `metrics` and `tables/table` first.
"""
