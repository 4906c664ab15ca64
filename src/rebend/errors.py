"""Errors that a user can correct. Each message names the mistake, its place and the allowed values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_LISTED = 12  # names in a message, at most; of more, the nearest ones
_NEAREST = 5


class RebendError(Exception):
    """Base of all errors of rebend."""


class ConfigError(RebendError):
    """A setting is wrong; raised before any job starts."""


class DataError(RebendError):
    """A data file is missing, empty, damaged, or lacks a column that its reader needs."""


class ModelError(RebendError):
    """A checkpoint is incomplete, or does not fit its use."""


class JudgeError(RebendError):
    """A judge returns no replies. A single unreadable reply is no error: its row is not scored."""


class DiskError(RebendError):
    """The disk is full. No incomplete file remains; free some space, then run again."""


class ChangedError(RebendError):
    """Code or configuration was edited during a run, so a job would mix two versions."""


def likely_typo(value: object, allowed: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the closest allowed word, or "" if none is close."""
    close = difflib.get_close_matches(str(value), [str(word) for word in allowed], n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def allowed_names(value: object, allowed: Iterable[str], see: str = "config/config.yaml") -> str:
    """Return `"Allowed: a, b, c. Did you mean 'b'?"` for a wrong `value`; of many names, only those near to it.

    Of more than 12 names, the likely typo comes first, then the nearest five, and the file `see` has the others. Names
    of blocks of one training seed, `<block>_seed_<n>`, are listed as one, the block's.
    """
    names = [str(name) for name in allowed]
    typo = likely_typo(value, names)
    listed = list(dict.fromkeys(re.sub(r"_seed_\d+$", "", name) for name in names))
    if len(listed) <= _LISTED:
        return f"Allowed: {', '.join(listed) or 'none'}.{typo}"
    nearest = difflib.get_close_matches(str(value), listed, n=_NEAREST, cutoff=0.0)
    return f"{typo} Allowed: {', '.join(nearest)} and {len(listed) - len(nearest)} more, see {see}.".lstrip()
