"""Settings: the fields, defaults and checks of every block. Imports no torch and uses no network.

One file per section of `config/config.yaml`. Read `base.py` first (blocks, their references to other blocks, and import
paths of methods), then `catalogue.py` (the sections). `load.py` reads a configuration and collects all mistakes;
`study.py` has grids, claims and caps; `aliases.py` renames the keys of the previous version.
"""
