"""Prompts that two data sets share, by content: nothing is chosen or reported on prompts that something learnt from.

`rebend.io.prompts` says which prompts are the same. Every request inside a chat counts as a prompt, because a model
learns from each of its answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from rebend.data.readers.rows import Messages
from rebend.errors import DataError
from rebend.io.files import read_parquet
from rebend.io.prompts import prompts_in

_SHOWN = 80  # characters of a prompt in a message


def prompts_of(path: str | Path) -> dict[str, str]:
    """Return key → text of the last turn, for all prompts of a prepared data set."""
    rows: list[Messages] = read_parquet(path)["messages"].to_pylist()
    return {key: json.loads(key)[-1][1] for messages in rows for key in prompts_in(messages)}


def check_overlap(name: str, data: str | Path, others: Iterable[tuple[str, str, str | Path]]) -> dict[str, int]:
    """Return the number of prompts of data set `name` and of each other data set.

    `others` are (name, use, path); the use says what learns from the data set. Raises `DataError` with every other data
    set that shares a prompt with `name`, and with an example.
    """
    prompts = prompts_of(data)
    counts = {name: len(prompts)}
    mistakes = []
    for other, use, path in others:
        learnt = prompts_of(path)
        counts[other] = len(learnt)
        if shared := sorted(prompts.keys() & learnt.keys()):
            example = prompts[shared[0]][:_SHOWN]
            mistakes.append(
                f"datasets.{name}: {len(shared)} of its {len(prompts)} prompts are also in '{other}' ({use}), e.g. "
                f"{example!r}. Leave them out with `without: [{name}]` in datasets.{other}, or draw other rows"
            )
    if mistakes:
        raise DataError(
            "nothing is chosen or reported on prompts that something learnt from:\n  " + "\n  ".join(mistakes)
        )
    return counts
