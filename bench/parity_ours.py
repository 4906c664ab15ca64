"""What the parity page runs of rebend, part 1: losses, values, ascent and states.

If a name in the library changes, this file and `parity_ours_texts.py` follow, and no other.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rebend.config.adapters import CircuitBreakersBlock, DpoBlock, NpoBlock, RepBendBlock, RmuBlock
from rebend.config.decoding import Decoding
from rebend.config.value_models import ValueModelBlock
from rebend.data.readers.registry import load_reader
from rebend.data.readers.rows import UnusableRowError
from rebend.generation.continuous_batching import generate_continuous
from rebend.generation.fixed_batches import generate_batch
from rebend.generation.requests import Request
from rebend.io.checkpoints import Checkpoints
from rebend.models.loading import Policy
from rebend.models.lora import add_adapter
from rebend.recontrol.methods.value_ascent import ValueAscent
from rebend.recontrol.value_model.activation_store import Activations
from rebend.recontrol.value_model.labels import Labels
from rebend.recontrol.value_model.loss import Labelled, masked, packed, summed_loss
from rebend.recontrol.value_model.network import Shape, ValueNetwork, load_value, new_network
from rebend.recontrol.value_model.train import train_value_model
from rebend.repbend.examples import ExampleEncoder, StepExamples, TrainingExample, TrainingExamples
from rebend.repbend.methods.repbend import RepBend
from rebend.repbend.methods.rmu import steering_vector
from rebend.repbend.objective import Loss, StepInfo
from rebend.repbend.train import AdapterTrainer, objective_class

__all__ = ["Loss", "Policy", "StepExamples", "TrainingExample", "TrainingExamples", "ValueNetwork", "steering_vector"]
BLOCKS = {"examples": "s", "paired_examples": "p", "retain_chats": "r", "lora_dropout": 0.0, "lora_r": 4}


# --- RepBend -----------------------------------------------------------------------------------------------------


def repbend_settings(**changes: Any) -> RepBendBlock:
    """Return settings with the released weights, target layers 1 and 2, and without dropout."""
    layers = {"target_layer_start_idx": 1, "layers_window_size": 2}
    return RepBendBlock.model_validate({"method": "repbend", **BLOCKS, **layers, "batch_size": 2, **changes})


def npo_settings(**changes: Any) -> NpoBlock:
    """Return settings of NPO for groups of two."""
    return NpoBlock.model_validate({"method": "npo", **BLOCKS, "batch_size": 2, **changes})


def circuit_breakers_settings(**changes: Any) -> CircuitBreakersBlock:
    """Return settings of circuit breakers for groups of two."""
    return CircuitBreakersBlock.model_validate({"method": "circuit_breakers", **BLOCKS, "batch_size": 2, **changes})


def rmu_settings(**changes: Any) -> RmuBlock:
    """Return settings of RMU for groups of two."""
    return RmuBlock.model_validate({"method": "rmu", **BLOCKS, "batch_size": 2, **changes})


def dpo_settings(**changes: Any) -> DpoBlock:
    """Return settings of DPO for groups of two."""
    return DpoBlock.model_validate({"method": "dpo", **BLOCKS, "batch_size": 2, **changes})


def with_adapter(model: Any) -> Any:
    """Return a model with an adapter of random weights on all blocks, in float64."""
    wrapped = add_adapter(Policy(model, None, ""), repbend_settings(), range(model.config.num_hidden_layers)).double()
    with torch.no_grad():
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.2)
    return wrapped


def repbend_loss(model: Any, settings: RepBendBlock, data: TrainingExamples, step: int = 0) -> Loss:
    """Return the loss of a step."""
    info = StepInfo(step, settings.max_step, (step + 1) * settings.batch_size)
    objective = RepBend(settings, data, model.config.num_hidden_layers)
    return objective.loss(model, data.step(step, settings.batch_size, settings.seed), info)


def baseline_loss(model: Any, settings: Any, data: TrainingExamples, group: StepExamples, step: int = 0) -> Loss:
    """Return the loss of a group by the method of the settings."""
    objective = objective_class(settings)(settings, data, model.config.num_hidden_layers)
    return objective.loss(model, group, StepInfo(step, settings.max_step, len(group.retain)))


def trained(model: Any, settings: RepBendBlock, data: TrainingExamples, n_steps: int, start: Any) -> list[Tensor]:
    """Return the adapter's weights after some steps of the trainer, from the weights of the adapted model `start`."""
    trainer = AdapterTrainer(Policy(model, None, ""), settings, data)
    trainer.engine.model.double()
    trainer.engine.model.load_state_dict(start.state_dict())
    for _ in range(n_steps):
        trainer.step()
    return [weight.detach() for weight in trainer.engine.model.parameters() if weight.requires_grad]


def training_tokens(tokenizer: Any, prompt: str, response: str, max_length: int) -> tuple[list[int], list[int]] | None:
    """Return the token ids of prompt and response of a training text; None if the row is left out."""
    row = {"row_id": "r", "messages": [{"role": "user", "content": prompt}], "response": response}
    example = ExampleEncoder(tokenizer, max_length, RepBend.reading(repbend_settings())).answer(row)
    return example and (example.tokens[: example.n_prompt], example.tokens[example.n_prompt :])


def wildguard_label(row: dict[str, Any], loss_mode: str) -> str:
    """Return the class of a row of WildGuardMix: safe, unsafe, or "" for a row that is left out."""
    reader = "wildguardmix_prompts" if loss_mode in ("request_all", "request_last") else "wildguardmix"
    try:
        return str(load_reader(reader).functions["safety"](row)[0]["label"])
    except UnusableRowError:
        return ""


# --- RE-Control: values, ascent, states ---------------------------------------------------------------------------


def value_network(width: int, hidden: int, n_layers: int, seed: int = 0) -> ValueNetwork:
    """Return a random value network in float64."""
    return new_network(Shape(width, hidden, n_layers), seed).double()


def value_loss(
    network: ValueNetwork, states: Sequence[Tensor], rewards: Sequence[float], variant: str, empty: Sequence[bool]
) -> Tensor:
    """Return the objective of responses with states [T, D] each, per response; `empty` have an end token's state."""
    settings = ValueModelBlock.model_validate({"activations": "a", "reward": "r", "variant": variant})
    batch = [Labelled(*row) for row in zip(states, rewards, empty, strict=True)]
    joined, lengths, labels = packed(masked(batch, settings), network)
    return summed_loss(network(joined), lengths, labels, settings) / len(batch)


def trained_value_network(
    states: Sequence[Tensor], rewards: Sequence[float], hidden: int, n_layers: int, epochs: int, lr: float
) -> ValueNetwork:
    """Return the network after `variant: released_code` trained it on responses with states [T, D], one per prompt."""
    sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests know how to write a folder of activations
    from tests.helpers.state_files import write_activations

    settings = ValueModelBlock.model_validate(
        {
            "activations": "a",
            "reward": "r",
            "variant": "released_code",
            "batch_size": 512,
            "hidden_size": hidden,
            "n_layers": n_layers,
            "epochs": epochs,
            "lr": lr,
        }
    )
    names = [f"p{number}/0" for number in range(len(states))]
    with tempfile.TemporaryDirectory() as folder:
        place = write_activations(Path(folder) / "activations", dict(zip(names, states, strict=True)))
        out, labels = Path(folder) / "value", Labels.of(dict(zip(names, rewards, strict=True)))
        out.mkdir()
        checkpoints = Checkpoints(Path(folder) / "progress")
        train_value_model(Activations(place), labels, settings, out, checkpoints, torch.device("cpu"))
        return load_value(out, Activations(place).fingerprint, states[0].shape[1])


def climbed(network: ValueNetwork, states: Tensor, step_size: float, n_steps: int) -> Tensor:
    """Return states [B, D] after the ascent of `variant: released_code`."""
    return ValueAscent(network.requires_grad_(False), step_size, n_steps, "released_code").ascend(states)


def stored_states(policy: Policy, prompts: Sequence[list[int]], n_tokens: int, mask: str) -> list[Tensor]:
    """Return the states [T, D] that a value network is trained on, of the greedy response to each prompt.

    `mask` names the model whose released mask is meant.
    """
    requests = [Request(str(i), ids) for i, ids in enumerate(prompts)]
    decoding = Decoding(max_new_tokens=n_tokens)
    found = dict(generate_continuous(policy, requests, decoding, keep_states=True))
    kept = []
    for response in (found[i] for i in range(len(requests))):
        assert response.states is not None
        kept.append(response.states if mask == "vicuna_7B" else response.states[: len(response.token_ids)])
    return kept


def controlled_tokens(
    policy: Policy, prompts: Sequence[list[int]], n_tokens: int, network: ValueNetwork, step_size: float, n_steps: int
) -> list[list[int]]:
    """Return the response of each prompt under `variant: released_code`."""
    control = ValueAscent(network.requires_grad_(False), step_size, n_steps, "released_code")
    requests = [Request(str(i), ids) for i, ids in enumerate(prompts)]
    responses = generate_batch(policy, requests, Decoding(max_new_tokens=n_tokens), control=control)
    return [response.token_ids for response in responses]
