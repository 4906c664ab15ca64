"""States that are not stored are computed by the model."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
import torch

from rebend.errors import ModelError
from rebend.recontrol.value_model.activation_store import RESPONSES_FILE
from rebend.recontrol.value_model.streamed_activations import StreamedActivations
from tests.helpers.extraction_parts import SETTINGS, extract
from tests.helpers.small_policy import make_policy


def test_streamed_states_equal_the_stored_states_and_are_not_written(policy, extracted, tmp_path):
    settings = SETTINGS.model_copy(update={"states": "streamed"})
    extract(policy, tmp_path, settings)
    streamed = StreamedActivations(tmp_path / "out", policy)
    assert "state" not in pq.read_schema(streamed.directory / streamed.manifest["shards"][0]["file"]).names
    assert (streamed.directory / RESPONSES_FILE).read_bytes() == (extracted.directory / RESPONSES_FILE).read_bytes()
    assert [streamed.names(g)[0] for g in streamed.groups()] == [extracted.names(g)[0] for g in extracted.groups()]
    for group in extracted.groups():
        torch.testing.assert_close(streamed.states(group), extracted.states(group), rtol=4e-3, atol=4e-3)
    with pytest.raises(ModelError, match="are of model fingerprint-0, this is fingerprint-1"):
        StreamedActivations(tmp_path / "out", make_policy(seed=1))
