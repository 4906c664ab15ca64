"""What a user may write: fields, defaults and checks of every block of settings. Imports no torch, uses no network.

One file per section of `config/config.yaml`. Read `base.py` first (what a block is, how it refers to others, how a
method names its code), then `catalogue.py` (the sections). `load.py` reads a configuration and collects all mistakes;
`study.py` has grids, claims and caps; `aliases.py` accepts the keys of the version before.
"""
