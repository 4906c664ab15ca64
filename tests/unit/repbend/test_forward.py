"""Batches and the hidden states that a pass returns."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from rebend.errors import ConfigError
from rebend.repbend.examples import load_training_examples
from rebend.repbend.forward import MAX_PADDING, Example, keeps_packed_texts_apart, make_batches, run_pass
from rebend.repbend.methods.repbend import RepBend
from rebend.repbend.objective import StepInfo
from tests.helpers.architectures import ARCHITECTURES
from tests.helpers.training_parts import N_LAYERS, configuration, settings, tables, tokenizer

CPU = torch.device("cpu")


def test_batches_hold_each_position_once_and_little_padding() -> None:
    data = load_training_examples(tokenizer(), *tables(), max_length=64)
    examples = RepBend(settings(), data, N_LAYERS).texts(data.step(0, 2, 0), StepInfo(0, 6, 2))
    batches = make_batches(examples, CPU)
    n_tokens = sum(len(example.tokens) for example in examples)
    assert n_tokens >= (1 - MAX_PADDING) * sum(batch.tokens.numel() for batch in batches)
    for name in ("safe", "unsafe", "last_prompt", "retain"):
        in_batches = [
            (index, token)
            for batch in batches
            for index, token in zip(
                batch.example_index[name].tolist(),
                batch.tokens.flatten()[batch.positions[name]].tolist(),
                strict=True,
            )
        ]
        expected = [
            (n, example.tokens[i]) for n, example in enumerate(examples) for i in example.positions.get(name, [])
        ]
        assert expected
        assert sorted(in_batches) == sorted(expected)


def test_the_embeddings_are_refused() -> None:
    model = AutoModelForCausalLM.from_config(configuration(300))
    batches = make_batches([Example([1, 2], {"all": range(2)})], CPU)
    with pytest.raises(ConfigError, match=r"hidden_states\[0\] is no layer's output"):
        run_pass(model, batches, {"all": [0]})


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_states_of_batches_equal_those_of_each_text_alone(name: str, packed: bool) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[name]).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    texts = [torch.randint(3, 300, (length,)) for length in (9, 5, 14)]
    probes = [Example(text.tolist(), {"all": range(len(text)), "end": [len(text) - 1]}) for text in texts]
    with torch.no_grad():
        together = run_pass(model, make_batches(probes, CPU, packed=packed), {"all": [1, 2, 3], "end": [3]})
        alone = [model(input_ids=text[None], output_hidden_states=True).hidden_states for text in texts]
    same = all(
        torch.allclose(together.ordered("all")[number], torch.cat([states[index][0] for states in alone]), atol=1e-4)
        for number, index in enumerate((1, 2, 3))
    )
    # Falcon's code does not separate packed texts; `keeps_packed_texts_apart` detects this, and nothing is packed.
    assert same == (not packed or "falcon" not in name)
    if packed:
        assert keeps_packed_texts_apart(model) == same
    else:
        assert torch.allclose(together.ordered("end")[0], torch.cat([states[3][0, -1:] for states in alone]), atol=1e-4)
