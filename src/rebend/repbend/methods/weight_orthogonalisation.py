"""Weight orthogonalisation (Arditi et al. 2024, arXiv:2406.11717, sections 2.3 and 2.4), as a LoRA adapter.

    r = mean state of harmful prompts - mean state of harmless prompts,  at one layer and token;  u = r / ‖r‖
    W' = W - u uᵀ W        for each matrix that writes to the residual stream

The change has rank 1, so an adapter with B = -u and A = uᵀ W holds it exactly: it is merged like any other adapter. The
matrices are the last ones of attention and of the MLP of each block, and the embeddings. After the change, all states
before the final norm have the same component along u: that of their embeddings, which is 0 if these are changed, too.
This is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Embedding, LoraLayer
from torch import Tensor, nn

from rebend.config.adapters import OrthogonalisationBlock
from rebend.errors import DataError, ModelError
from rebend.io.files import whole_directory, write_json
from rebend.models.adapter_files import ADAPTER_FILE
from rebend.models.hidden_states import text_states
from rebend.models.layers import layer_of, named_blocks
from rebend.models.loading import Policy, load_policy
from rebend.models.lora import adapter_weights, write_adapter
from rebend.repbend.examples import ExampleEncoder, Reading

# Last linear modules of attention and MLP in the families of transformers (Llama and its like, Falcon, GPT-2, OPT)
_WRITERS = ("o_proj", "down_proj", "dense", "dense_4h_to_h", "out_proj", "fc2")
_CHECKED = 8  # prompts
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of a component, share of a state


def orthogonalise_weights(
    base: str | Path, dtype: str, settings: OrthogonalisationBlock, examples: pa.Table, out: str | Path
) -> dict[str, Any]:
    """Write the adapter that removes the refusal direction from the model folder `base` to the folder `out`.

    `examples` has the schema SAFETY. Returns facts for the record: number of prompts of each label, length of the
    difference before it is scaled. Raises `DataError` if a label has no prompt or both have the same mean state, and
    `ModelError` if the model shares its embeddings with its head, or writes to the residual stream elsewhere.
    """
    policy = load_policy(base, dtype)
    harmful, harmless = _prompts(policy, settings, examples)
    difference = mean_difference(policy, settings, harmful, harmless)
    length = float(difference.norm())
    if length == 0.0:
        raise DataError("harmful and harmless prompts have the same mean state: are they the same prompts?")
    model = orthogonalised(policy, difference / length, embeddings=settings.embeddings)
    check_orthogonal(model, difference / length, [*harmful, *harmless][:_CHECKED])
    facts = {"base": Path(base).name, "base_fingerprint": policy.fingerprint, "dtype": dtype}
    with whole_directory(out) as folder:
        write_adapter(model, adapter_weights(model), folder, Path(base).name)
        write_json(folder / ADAPTER_FILE, {**facts, "settings": settings.model_dump()})
    return {"harmful": len(harmful), "harmless": len(harmless), "difference": length}


def _prompts(
    policy: Policy, settings: OrthogonalisationBlock, examples: pa.Table
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the tokens of harmful and of harmless prompts, each prompt once."""
    encoder = ExampleEncoder(policy.tokenizer, settings.max_length, Reading(prompts_only=True))
    by_label: dict[str, dict[tuple[int, ...], None]] = {"unsafe": {}, "safe": {}}
    for row in examples.to_pylist():
        if example := encoder.answer({**row, "response": ""}):
            by_label[row["label"]][tuple(example.tokens)] = None
    for label, prompts in by_label.items():
        if not prompts:
            raise DataError(f"the direction needs prompts with the label '{label}'; left out: {encoder.left_out}")
    return [list(prompt) for prompt in by_label["unsafe"]], [list(prompt) for prompt in by_label["safe"]]


def mean_difference(
    policy: Policy,
    settings: OrthogonalisationBlock,
    harmful: Sequence[Sequence[int]],
    harmless: Sequence[Sequence[int]],
) -> Tensor:
    """Return r, `[D]` float64 on the CPU. Raises `ConfigError` for a layer that the model does not have."""
    layer = layer_of(settings.target_layer, policy.n_layers)

    def mean_state(prompts: Sequence[Sequence[int]]) -> Tensor:
        places = [max(len(prompt) + settings.token, 0) for prompt in prompts]
        states = text_states(policy, prompts, [range(place, place + 1) for place in places], layer)
        return torch.cat(states).double().mean(0)

    return mean_state(harmful) - mean_state(harmless)


def orthogonalised(policy: Policy, direction: Tensor, *, embeddings: bool) -> PeftModel:
    """Return the model with an adapter of rank 1 that removes `direction` `[D]`, of length 1, from what weights write.

    Raises `ModelError` for a model without known matrices that write, or that shares its embeddings with its head.
    """
    model = policy.model
    names = list(_writers(model))
    if embeddings:
        names.append(_embeddings(model))
    config = LoraConfig(r=1, lora_alpha=1, target_modules=names, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    with torch.no_grad():
        for module in adapted.modules():
            if isinstance(module, LoraLayer):
                _set_change(module, direction)
    return adapted.eval()


def _set_change(module: Any, direction: Tensor) -> None:
    """Set the two matrices of a module: weight `[D, in]` (of embeddings `[V, D]`) without what is along `direction`."""
    weight: Tensor = module.get_base_layer().weight
    along = direction.to(weight.device, torch.float64)
    if isinstance(module, Embedding):
        down, up = module.lora_embedding_A["default"], module.lora_embedding_B["default"]
        written = weight.double() @ along
    else:
        down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
        written = along @ weight.double()
    down.copy_(written[None])
    up.copy_(-along[:, None])


def _writers(model: Any) -> Iterable[str]:
    """Yield the names of the linear modules of the blocks that write to the residual stream."""
    _, blocks = named_blocks(model)
    inside = {id(part) for part in blocks.modules() if isinstance(part, nn.Linear)}
    found = [name for name, part in model.named_modules() if id(part) in inside and name.rsplit(".", 1)[-1] in _WRITERS]
    if not found:
        raise ModelError(f"{type(model).__name__}: no known matrix writes to the residual stream ({_WRITERS})")
    return found


def _embeddings(model: Any) -> str:
    """Return the name of the embeddings. Raises `ModelError` if the head shares their weight."""
    embeddings = model.get_input_embeddings()
    head = model.get_output_embeddings()
    if head is not None and head.weight is embeddings.weight:
        raise ModelError(
            f"{type(model).__name__} shares its embeddings with its head, so that an adapter cannot change them "
            "alone: set `embeddings: false`"
        )
    return next(name for name, part in model.named_modules() if part is embeddings)


@torch.no_grad()
def check_orthogonal(model: PeftModel, direction: Tensor, prompts: Sequence[Sequence[int]]) -> None:
    """Raise `ModelError` if a block of the adapted model still writes along `direction`.

    Then its states before the final norm have other components along it than their embeddings.
    """
    for prompt in prompts:
        states = model(torch.tensor([prompt], device=model.device), output_hidden_states=True).hidden_states[:-1]
        along = direction.to(model.device, torch.float32)
        for index, state in enumerate(states[1:], start=1):
            moved = ((state[0].float() - states[0][0].float()) @ along).abs() / state[0].float().norm(dim=-1)
            if not float(moved.max()) <= _TOLERANCE[state.dtype]:
                raise ModelError(
                    f"hidden_states[{index}] still moves along the direction (by {float(moved.max()):.2g} of its "
                    "length): this architecture writes to its residual stream by a bias, a norm or a module that is "
                    f"none of {_WRITERS}, so that its weights cannot be made orthogonal"
                )
