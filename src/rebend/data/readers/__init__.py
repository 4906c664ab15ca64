"""One file per source format: its facts and its functions from a source row to rows of a kind. Standard library only.

`reader` has the type, `registry` loads a reader by name, `raw` reads files into dicts, `rows` has what readers share.
Formats of safety prompts are in `safety`. Read `reader` first, then `shp` as an example.
"""
