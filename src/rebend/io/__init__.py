"""Files on disk and the tables in them: complete or absent, checked for damage, resumable; no paths of results.

- `files`: write a file or folder as a whole; read and write JSON and Parquet. Read this first.
- `checksums`: the SHA-256 of files and bytes.
- `schemas`, `scores`: the Parquet schemas; scores by row id.
- `chunks`, `checkpoints`: finished parts and the last state of a long stage, for the next attempt after a kill.
- `locks`: one process at a time. `memory`, `progress`, `secrets`: memory, elapsed time and keys of a process.
- `registry`: load code by its import path.
"""
