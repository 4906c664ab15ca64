"""One file per control method; `make(block, resources)` turns its settings into a `Control`.

The registry `rebend.config.controls.CONTROLS` names each `make`. Nothing else outside this folder imports a method, so
that the code version of a stage covers its own method only. `ascent.py`, `ascent_kernels.py`, `token_search.py` and
`tree_attention.py` are shared by several methods. Read `value_ascent.py` first: it is RE-Control.
"""
