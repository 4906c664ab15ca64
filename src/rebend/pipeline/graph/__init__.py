"""From a configuration to the results of a study: paths, cells and plan.

`plan.py` lists the cells, assets and summary of a study; read it first. `cells.py` describes one cell of its
tables, `paths.py` returns the path of every result.
"""
