"""Errors that a user can act on: one message with what is wrong, where, and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RebendError(Exception):
    """Base of every error that rebend raises on purpose."""


class ConfigError(RebendError):
    """A setting is wrong; raised before any job starts."""


class DataError(RebendError):
    """A data file is missing, empty, damaged, or lacks something that its reader needs."""


class ModelError(RebendError):
    """A checkpoint is incomplete or does not fit what it is used for."""


class JudgeError(RebendError):
    """A judge could not be asked at all (a single unreadable verdict is a state, not an error)."""


class DiskError(RebendError):
    """There is no room to write; nothing half-written is left, and a run goes on after room is made."""


class ChangedError(RebendError):
    """Code or configuration was edited while a run was going, so a job would mix two versions."""


def likely_typo(value: object, allowed: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the closest allowed word, or nothing if none is close."""
    close = difflib.get_close_matches(str(value), [str(word) for word in allowed], n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
