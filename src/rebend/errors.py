"""Errors that a user can correct. Each message names the mistake, its place and the allowed values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
