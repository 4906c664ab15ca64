"""Activations that the tests of this folder read and never change."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rebend.models.loading import Policy
from rebend.recontrol.value_model.activation_store import Activations
from tests.helpers.extraction_parts import extract
from tests.helpers.small_policy import make_policy
from tests.helpers.state_files import write_activations
from tests.helpers.value_model_parts import responses


@pytest.fixture(scope="module")
def policy() -> Policy:
    return dataclasses.replace(make_policy(), revision="0123abcd")


@pytest.fixture(scope="package")
def extracted(tmp_path_factory) -> Activations:
    """Activations of the policy, extracted by `extraction_parts.extract`."""
    return extract(dataclasses.replace(make_policy(), revision="0123abcd"), tmp_path_factory.mktemp("extracted"))


@pytest.fixture(scope="package")
def labelled(tmp_path_factory) -> tuple[Path, dict[str, float]]:
    """An activations folder with 120 responses to 60 prompts, and their rewards."""
    states, rewards = responses(120)
    return write_activations(tmp_path_factory.mktemp("labelled") / "activations", states, shards=3, chunk=10), rewards
