"""Resources of a control: loaded once, and a missing one is named in the error."""

from __future__ import annotations

import pytest

from rebend.errors import ConfigError
from rebend.recontrol.resources import ControlResources
from tests.helpers.small_policy import make_policy


def test_a_resource_is_loaded_once():
    paths: list[str] = []
    resources = ControlResources(make_policy(), {"direction": "folder/direction.json"})
    for _ in range(2):
        assert resources.get("direction", "static", lambda path: paths.append(path) or "loaded") == "loaded"
    assert paths == ["folder/direction.json"]


@pytest.mark.parametrize("inputs", [{}, {"value_model": []}])
def test_a_missing_resource_is_an_error_that_names_it_and_the_control(inputs):
    resources = ControlResources(make_policy(), inputs)
    with pytest.raises(ConfigError, match="control 'value' lacks its value network"):
        resources.get("value_model", "value", lambda path: path)
