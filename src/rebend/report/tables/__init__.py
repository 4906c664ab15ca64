"""One file per table: how it is computed, its text and its note.

`table` has the record of a table and its inputs, `all` the list of tables. Read `table` and `matrix` first.
"""
