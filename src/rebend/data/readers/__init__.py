"""Readers: one small function per format and kind, from one row of a source to rows of that kind.

A function takes a dict of the source's columns and returns rows without `row_id`. What each format is
called, which kinds it gives and which columns it needs is in `rebend.data.readers.formats`.
Nothing here imports more than the standard library.
"""

from __future__ import annotations

from collections.abc import Callable

from rebend.data.readers import benchmarks, hh_rlhf, shp, table, ultrachat, wild
from rebend.data.readers.formats import READER_INFO, columns_sentence, missing_columns
from rebend.data.readers.raw import Placed
from rebend.data.readers.rows import Source
from rebend.errors import DataError

Reader = Callable[[Source], list[Source]]

READERS: dict[str, dict[str, Reader]] = {
    "hh_rlhf": {
        "preference": hh_rlhf.preference,
        "prompts": hh_rlhf.prompts,
        "chat": hh_rlhf.chat,
        "safety": hh_rlhf.safety,
    },
    "shp": {"preference": shp.preference, "prompts": shp.prompts},
    "recontrol": {"prompts": shp.recontrol_prompts},
    "wildjailbreak": {"safety": wild.wildjailbreak_safety, "evaluation": wild.wildjailbreak_evaluation},
    "wildguardmix": {"safety": wild.wildguardmix_safety, "evaluation": wild.wildguardmix_evaluation},
    "ultrachat": {"chat": ultrachat.chat, "prompts": ultrachat.prompts},
    "harmbench": {"evaluation": benchmarks.harmbench},
    "harmbench_cases": {"evaluation": benchmarks.harmbench_cases},
    "do_anything_now": {"evaluation": benchmarks.do_anything_now},
    "trustllm_jailbreak": {"evaluation": benchmarks.trustllm_jailbreak},
    "pap": {"evaluation": benchmarks.pap},
    "xstest": {"evaluation": benchmarks.xstest},
    "strongreject": {"evaluation": benchmarks.strongreject},
    "table": {"prompts": table.prompts, "evaluation": table.evaluation},
}


def convert(reader: str, kind: str, placed: Placed) -> list[Source]:
    """Turn one source row into rows of `kind`.

    Raises `UnusableRowError` for a row that is to be left out and counted, and `DataError` with file and line for
    one that lacks a column or breaks its format.
    """
    needed = READER_INFO[reader].columns[kind]
    if gone := missing_columns(needed, placed.row):
        raise DataError(f"{placed.place}: {columns_sentence(reader, kind, gone, placed.row)}")
    try:
        return READERS[reader][kind](placed.row)
    except ValueError as error:
        raise DataError(f"{placed.place}: {error}") from error
