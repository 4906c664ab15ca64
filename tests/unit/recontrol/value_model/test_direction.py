"""A direction is loaded for its own model only."""

from __future__ import annotations

import pytest

from rebend.errors import ModelError
from rebend.io.files import write_json
from rebend.recontrol.value_model.direction import load_direction


def test_a_direction_of_another_model_or_hidden_size_is_refused(tmp_path):
    write_json(tmp_path / "direction.json", {"direction": [1.0, 0.0], "fingerprint": "abc"})
    assert load_direction(tmp_path / "direction.json", "abc", 2).tolist() == [1.0, 0.0]
    with pytest.raises(ModelError, match="fitted to model abc; this is model def"):
        load_direction(tmp_path / "direction.json", "def", 2)
    with pytest.raises(ModelError, match=r"2 numbers .* hidden size 3"):
        load_direction(tmp_path / "direction.json", "abc", 3)
