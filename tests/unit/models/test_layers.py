"""Layer numbers: their conversion, target layers, and blocks with adapters."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from rebend.errors import ConfigError
from rebend.models.layers import FINAL, layer_of, target_indices, transform_blocks
from tests.helpers.training_parts import configuration


def test_hidden_states_of_a_model_are_the_outputs_of_their_layers() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(configuration(50)).eval()
    outputs: dict[int | str, torch.Tensor] = {}
    for number, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda module, inputs, output, number=number: outputs.update({number: output}))
    model.model.norm.register_forward_hook(lambda module, inputs, output: outputs.update({FINAL: output}))
    states = model(input_ids=torch.arange(7)[None], output_hidden_states=True).hidden_states
    assert [layer_of(index, 3) for index in (1, 2, 3)] == [0, 1, FINAL]
    for index in (1, 2, 3):
        output = outputs[layer_of(index, 3)]
        assert torch.equal(states[index], output[0] if isinstance(output, tuple) else output)


@pytest.mark.parametrize("index", [0, 6])
def test_embeddings_and_indices_beyond_the_model_are_refused(index: int) -> None:
    with pytest.raises(ConfigError, match="allowed are 1 to 5"):
        layer_of(index, 5)


def test_the_published_window_is_twenty_to_thirty() -> None:
    assert target_indices(20, 11, 32) == list(range(20, 31))


@pytest.mark.parametrize(("start", "window"), [(0, 2), (30, 4), (33, 1)])
def test_a_window_beyond_the_model_is_refused_with_the_allowed_range(start: int, window: int) -> None:
    with pytest.raises(ConfigError, match="allowed are indices 1 to 32"):
        target_indices(start, window, 32)


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ConfigError, match="layers_window_size is 0"):
        target_indices(3, 0, 32)


def test_minus_one_means_all_blocks_up_to_the_last_target_as_in_the_released_code() -> None:
    assert transform_blocks([-1], 30, 32) == list(range(31))
    assert transform_blocks([-1], 32, 32) == list(range(32))


def test_minus_one_means_all_blocks_if_the_loss_reads_the_output() -> None:
    assert transform_blocks([-1], None, 8) == list(range(8))
    assert transform_blocks([7], None, 8) == [7]


def test_blocks_are_returned_sorted() -> None:
    assert transform_blocks([5, 1, 3], 7, 8) == [1, 3, 5]


def test_a_block_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"twice: \[29\]"):
        transform_blocks([18, 29, 20, 29], 30, 32)


@pytest.mark.parametrize("blocks", [[8], [-1, 2], [-2], []])
def test_blocks_that_do_not_exist_are_refused_with_the_allowed_range(blocks: list[int]) -> None:
    with pytest.raises(ConfigError, match="allowed are 0 to 7"):
        transform_blocks(blocks, 6, 8)


def test_blocks_after_every_target_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot change any target"):
        transform_blocks([6, 7], 6, 8)
