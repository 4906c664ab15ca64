"""One file per source format, with functions from a source row to rows of each kind. Standard library only.

`reader` defines the type of a reader, `registry` loads a reader by name, `raw` reads files into dicts, `rows` holds the
functions that readers share. Formats of safety prompts are in `safety`. Read `reader` first, then `shp` as an example.
"""
