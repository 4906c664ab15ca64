"""The server of hub files that the tests of assets share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.hub_assets import BODY, MODEL
from tests.helpers.hub_server import Hub, serving


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        rows = {"a/rows.jsonl": BODY, "b/rows.jsonl": BODY[:160]}
        server.repos = {"open/model": MODEL, "datasets/open/data": rows, "datasets/gated/data": rows}
        server.gated = {"datasets/gated/data"}
        server.plain = {"/plain/rows.jsonl": BODY}
        yield server
