"""Files on disk and the tables in them: complete or absent, checked for damage, resumable. Knows no paths of results.

- `files`: write a file or folder completely or not at all; read and write JSON and Parquet. Read this first.
- `checksums`: the SHA-256 of files, bytes and JSON.
- `schemas`, `scores`, `prompts`: the Parquet schemas; scores by row id; which prompts are the same.
- `chunks`, `checkpoints`: finished chunks and the last state of a long stage, from which it continues after a kill.
- `locks`: one process at a time.
- `memory`, `progress`, `secrets`: memory, progress bar, elapsed time and keys of a process.
- `registry`: load code by its import path.
"""
