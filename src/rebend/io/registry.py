"""Load code by its import path, so that a stage imports only the method that it runs."""

from __future__ import annotations

import importlib
from typing import Any


def load_code(path: str) -> Any:
    """Return the attribute at the import path `path`, "module:attribute".

    Raises ImportError if there is no such module, AttributeError if it has no such attribute.
    """
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)
