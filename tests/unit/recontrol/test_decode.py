"""From settings to controls: every method decodes, and a missing resource is an error that names the control."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from rebend.config.controls import CONTROLS, ControlBlock, PromptingBlock
from rebend.errors import ConfigError, ModelError
from rebend.generation.intervention import NoControl
from rebend.io.chunks import ChunkStore
from rebend.io.files import write_json
from rebend.recontrol.decode import control_block, decode_under, make_control
from rebend.recontrol.methods.cd_prefix import PrefixSearch
from rebend.recontrol.methods.controlled_decoding import RewardSearch
from rebend.recontrol.methods.prompting import Prompted, Prompting
from rebend.recontrol.methods.random_direction import RandomDirection
from rebend.recontrol.methods.static import StaticShift
from rebend.recontrol.methods.value_ascent import ValueAscent
from rebend.recontrol.resources import ControlResources
from rebend.recontrol.value_model.network import Shape, new_network
from tests.helpers.reward_models import make_reward
from tests.helpers.small_policy import make_policy, prompt_rows

NETWORK = new_network(Shape(32, 16, 2), 0).requires_grad_(False)
DIRECTION = torch.nn.functional.normalize(torch.ones(32), dim=0)
SETTINGS: dict[str, dict] = {
    "none": {},
    "prompting": {"instruction": "Be kind."},
    "value": {"value_model": "v", "step_size": 0.5, "n_steps": 3},
    "value_prompting": {"value_model": "v", "step_size": 0.5, "n_steps": 3, "instruction": "Be kind."},
    "random": {"value_model": "v", "step_size": 0.5, "n_steps": 3},
    "static": {"direction": "d", "step_size": 2.0},
    "controlled_decoding": {"reward": "r", "weight": 1.0, "top_k": 4},
    "cd_prefix": {"value_model": "v", "weight": 1.0, "top_k": 4},
    "cd_prefix_prompting": {"value_model": "v", "weight": 1.0, "top_k": 4, "instruction": "Be kind."},
    "best_of_n": {"reward": "r", "n": 3},
}
DECODING = {"max_new_tokens": 8, "batch_size": 4, "temperature": 1.0}


def block(method: str, **changes) -> ControlBlock:
    return control_block({"method": method, "decoding": DECODING, **SETTINGS[method], **changes})


@pytest.fixture(scope="module")
def resources() -> ControlResources:
    loaded = {"value_model": NETWORK, "direction": DIRECTION, "guidance_reward": make_reward()}
    return ControlResources(make_policy(), loaded=loaded)


def test_the_settings_above_cover_every_method():
    assert set(SETTINGS) == set(CONTROLS)


def test_each_block_makes_the_control_of_its_method(resources):
    controls = {method: make_control(block(method), resources) for method in SETTINGS if method != "best_of_n"}
    assert controls["none"] == NoControl()
    assert controls["prompting"] == Prompting("Be kind.")
    assert type(controls["value"]) is ValueAscent
    assert (controls["value"].step_size, controls["value"].n_steps) == (0.5, 3)
    assert isinstance(controls["random"], RandomDirection)
    assert (
        isinstance(controls["value_prompting"], Prompted) and controls["value_prompting"].control == controls["value"]
    )
    assert isinstance(controls["static"], StaticShift) and controls["static"].step_size == 2.0
    assert isinstance(controls["cd_prefix"], PrefixSearch) and controls["cd_prefix"].top_k == 4
    prompted = controls["cd_prefix_prompting"]
    assert prompted == Prompted("Be kind.", controls["cd_prefix"])
    messages = [{"role": "user", "content": "Hi"}]
    assert prompted.messages(messages) == [{"role": "user", "content": "Be kind. Hi"}]
    assert isinstance(controls["controlled_decoding"], RewardSearch) and controls["controlled_decoding"].weight == 1.0


def test_the_released_variant_edits_the_prompt_and_decodes_the_same_responses(resources):
    policy, tables = make_policy(), []
    for variant in ("corrected", "released_code"):
        settings = block("value", variant=variant)
        assert make_control(settings, resources).whole_prompt == (variant == "released_code")
        tables.append(decode_under(policy, prompt_rows(), settings, resources, ChunkStore(None))[0].to_pylist())
    assert [row["response"] for row in tables[0]] == [row["response"] for row in tables[1]]


def test_a_strength_of_zero_is_no_control(resources):
    for method, key in (("value", "step_size"), ("static", "step_size"), ("cd_prefix", "weight")):
        assert make_control(block(method, **{key: 0.0}), resources) == NoControl()
    prompted = make_control(block("value_prompting", step_size=0.0), resources)
    assert prompted == Prompted("Be kind.", NoControl())  # the instruction has no strength


@pytest.mark.parametrize("method", [method for method in SETTINGS if method not in ("none", "prompting")])
def test_a_missing_resource_is_an_error_that_names_the_control(method):
    policy = make_policy()
    with pytest.raises(ConfigError, match=method):
        decode_under(policy, prompt_rows(), block(method), ControlResources(policy), ChunkStore(None))


def test_every_method_decodes_and_counts_tokens_and_candidates(resources):
    policy, decoded = make_policy(), {}
    for method in SETTINGS:
        table, notes = decode_under(policy, prompt_rows(), block(method), resources, ChunkStore(None))
        assert table["row_id"].to_pylist() == [row["row_id"] for row in prompt_rows()]
        assert notes["tokens"] == sum(table["n_tokens"].to_pylist()) > 0
        decoded[method] = (notes["tokens"], notes["tokens_generated"], notes["candidates_scored"], table)
    for method, (tokens, generated, candidates, table) in decoded.items():
        ended = sum(finish != "length" for finish in table["finish"].to_pylist())
        if method in ("controlled_decoding", "cd_prefix", "cd_prefix_prompting"):
            assert (generated, candidates) == (tokens, 4 * (tokens + ended))
        elif method == "best_of_n":
            assert generated > 2 * tokens and candidates == 0
        else:
            assert (generated, candidates) == (tokens, 0)
    texts = {method: tuple(table["response"].to_pylist()) for method, (*_, table) in decoded.items()}
    assert len(set(texts.values())) == len(texts)  # no two methods give the same responses


def test_a_static_shift_moves_every_token_by_the_step_size(resources):
    policy = make_policy()
    table, _ = decode_under(policy, prompt_rows(), block("static"), resources, ChunkStore(None))
    assert table["edit_norm"].to_pylist() == pytest.approx([2.0] * 8, rel=1e-4)
    before = torch.randn(3, 32)
    edit = StaticShift(DIRECTION, 2.0).begin([0, 1, 2])
    torch.testing.assert_close(edit(before, torch.arange(3)) - before, (2.0 * DIRECTION).expand(3, -1))


def test_a_control_loads_only_the_resources_it_needs(tmp_path):
    policy = make_policy()
    path = tmp_path / "direction.json"
    facts = {"direction": DIRECTION.tolist(), "fingerprint": policy.fingerprint}
    write_json(path, facts)
    resources = ControlResources(policy, {"direction": str(path), "value_model": []})
    torch.testing.assert_close(make_control(block("static"), resources).direction, DIRECTION)
    assert set(resources.loaded) == {"direction"}
    with pytest.raises(ConfigError, match="value network"):
        make_control(block("value"), resources)
    write_json(path, {**facts, "fingerprint": "another"})
    with pytest.raises(ModelError, match="another"):
        make_control(block("static"), ControlResources(policy, {"direction": str(path)}))


def test_a_chosen_strength_replaces_the_word_chosen():
    choice = {"dataset": "d", "grid": [0.1], "steps": [2], "reward": "r", "encoder": "e"}
    settings = {"method": "value", "value_model": "v", "step_size": "chosen", "n_steps": "chosen", "choice": choice}
    taken = control_block({**settings, "choice": None, "strength_of": "x"}, {"step_size": 0.25, "n_steps": 7})
    assert (taken.step_size, taken.n_steps, taken.strength_of) == (0.25, 7, None)
    assert taken.facts() == {"step_size": 0.25, "n_steps": 7}
    fixed = control_block({**settings, "n_steps": 3, "choice": {**choice, "steps": []}}, {"step_size": 1, "n_steps": 3})
    assert (fixed.step_size, fixed.n_steps) == (1.0, 3)
    with pytest.raises(ConfigError, match="needs a number"):
        make_control(control_block(settings), ControlResources(make_policy(), loaded={"value_model": NETWORK}))
    assert control_block({"method": "none"}, {"step_size": 1.0}) == control_block({"method": "none"})
    assert isinstance(control_block({"method": "prompting", "instruction": "x"}), PromptingBlock)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_steps": "chosen"}, "chosen together"),
        ({"step_size": "chosen"}, "needs exactly one of"),
        ({"step_size": "chosen", "strength_of": "a", "choice": {"grid": [1.0]}}, "needs exactly one of"),
        ({"step_size": "chosen", "n_steps": "chosen", "choice": {"grid": [1.0]}}, "needs `choice.steps`"),
        ({"step_size": "chosen", "choice": {"grid": [1.0], "steps": [2]}}, "a number of steps"),
    ],
)
def test_a_strength_is_a_number_or_is_chosen_in_exactly_one_way(changes, words):
    if "choice" in changes:
        changes = {**changes, "choice": {"dataset": "d", "reward": "r", "encoder": "e", **changes["choice"]}}
    with pytest.raises(ValueError, match=words):
        block("value", **changes)


def test_decoding_and_choosing_a_strength_import_no_method():
    """The code version of a stage covers all modules that it imports, so only the registry names methods."""
    stages = "rebend.recontrol.decode, rebend.recontrol.choose_strength, rebend.recontrol.value_model.extraction"
    code = f"import sys, {stages}; print([m for m in sys.modules if m.startswith('rebend.recontrol.methods')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_generation_imports_no_module_of_recontrol():
    stages = "rebend.generation.generate, rebend.generation.continuous_batching"
    code = f"import sys, {stages}; print([m for m in sys.modules if m.startswith('rebend.recontrol')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
