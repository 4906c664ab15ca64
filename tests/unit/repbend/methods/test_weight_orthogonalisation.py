"""Weight orthogonalisation: direction and weights by plain formulas, and states of the merged model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, GemmaConfig

from rebend.config.adapters import OrthogonalisationBlock
from rebend.errors import ConfigError, DataError, ModelError
from rebend.io.schemas import SAFETY
from rebend.models.chat import prompt_text
from rebend.repbend.merge.merge import merge_adapter
from rebend.repbend.methods.weight_orthogonalisation import orthogonalise_weights
from tests.helpers.architectures import ARCHITECTURES
from tests.helpers.training_parts import THINGS, configuration, make_base, tokenizer, user

SIZES = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "head_dim": 8}
SHAPES = {
    **{name: ARCHITECTURES[name] for name in ("llama", "mistral", "qwen2", "qwen3", "falcon")},
    "gemma": GemmaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False),
}


def block(**changes: Any) -> OrthogonalisationBlock:
    settings = {"method": "weight_orthogonalisation", "examples": "prompts", "target_layer": 2, "max_length": 64}
    return OrthogonalisationBlock.model_validate(settings | changes)


def prompts() -> pa.Table:
    """Harmful prompts to break things and harmless ones to make them; answers play no part, one prompt comes twice."""
    rows = [
        {"row_id": f"{label}{n}", "messages": user(f"how do I {verb} {thing}"), "response": "x", "label": label}
        for n, thing in enumerate((*THINGS, THINGS[0]))
        for verb, label in (("break", "unsafe"), ("make", "safe"))
    ]
    return pa.Table.from_pylist([{**row, "pair": None} for row in rows], SAFETY)


def base_of(config: Any, folder: Path) -> Path:
    """A base model whose vocabulary fits the tokenizer."""
    config.vocab_size = len(tokenizer())
    config.tie_word_embeddings = False
    return make_base(folder, config=config)


def direction_of(base: Path, index: int, token: int) -> torch.Tensor:
    """r / ‖r‖ by a loop over prompts, each on its own."""
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    sums = {"unsafe": torch.zeros(32).double(), "safe": torch.zeros(32).double()}
    for row in prompts().to_pylist()[: 2 * len(THINGS)]:  # without the prompts that come again
        text = prompt_text(tokenizer(), row["messages"])
        ids = torch.tensor([tokenizer()(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states[index][0]
        sums[row["label"]] += states[len(states) + token].double() / len(THINGS)
    difference = sums["unsafe"] - sums["safe"]
    return difference / difference.norm()


@pytest.mark.parametrize("name", SHAPES)
def test_merged_weights_and_states_have_nothing_along_the_direction(tmp_path: Path, name: str) -> None:
    base, adapter = base_of(SHAPES[name], tmp_path / "base"), tmp_path / "adapter"
    facts = orthogonalise_weights(base, "float32", block(token=-2), prompts(), adapter)
    assert (facts["harmful"], facts["harmless"]) == (len(THINGS), len(THINGS))
    merge_adapter(base, adapter, tmp_path / "merged", "float32")
    u = direction_of(base, 2, -2)
    old = AutoModelForCausalLM.from_pretrained(base).state_dict()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    changed = 0
    for key, weight in model.state_dict().items():
        if key.endswith(("o_proj.weight", "down_proj.weight", "self_attention.dense.weight", "dense_4h_to_h.weight")):
            expected = old[key].double() - torch.outer(u, u @ old[key].double())
        elif key.endswith(("embed_tokens.weight", "word_embeddings.weight")):
            expected = old[key].double() - torch.outer(old[key].double() @ u, u)
        else:
            assert torch.equal(weight, old[key]), key
            continue
        changed += 1
        assert float((weight.double() - expected).norm()) < 1e-5 * float(old[key].double().norm()), key
    assert changed == 3 * 2 + 1
    with torch.no_grad():
        states = model(torch.tensor([[5, 60, 100, 200, 7]]), output_hidden_states=True).hidden_states
    assert all(float((state.double() @ u).abs().max()) < 1e-4 * float(state.norm()) for state in states[:-1])


def test_norms_behind_a_matrix_are_refused(tmp_path: Path) -> None:
    """Gemma 2 scales what attention and MLP give, each entry by another factor, so that the direction comes back."""
    base = base_of(ARCHITECTURES["gemma2"], tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.copy_(torch.linspace(-0.5, 0.5, len(weight)))
    model.save_pretrained(base)
    with pytest.raises(ModelError, match=r"hidden_states\[1\] still moves along the direction"):
        orthogonalise_weights(base, "float32", block(), prompts(), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_embeddings_shared_with_the_head_are_left_alone_only_if_asked(tmp_path: Path) -> None:
    config = configuration(len(tokenizer()))
    config.tie_word_embeddings = True
    base = make_base(tmp_path / "base", config=config)
    with pytest.raises(ModelError, match="set `embeddings: false`"):
        orthogonalise_weights(base, "float32", block(), prompts(), tmp_path / "adapter")
    orthogonalise_weights(base, "float32", block(embeddings=False), prompts(), tmp_path / "adapter")
    merge_adapter(base, tmp_path / "adapter", tmp_path / "merged", "float32")
    u = direction_of(base, 2, -1)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        states = model(torch.tensor([[5, 60, 100]]), output_hidden_states=True).hidden_states
    first = states[0][0].double() @ u
    assert float(first.abs().max()) > 1e-3
    for state in states[1:-1]:
        assert (state[0].double() @ u).tolist() == pytest.approx(first.tolist(), abs=1e-4)


def test_data_without_one_label_or_with_the_same_prompts_are_refused(tmp_path: Path) -> None:
    base = base_of(configuration(300), tmp_path / "base")
    rows = prompts().to_pylist()
    one = pa.Table.from_pylist([row for row in rows if row["label"] == "safe"], SAFETY)
    with pytest.raises(DataError, match="needs prompts with the label 'unsafe'"):
        orthogonalise_weights(base, "float32", block(), one, tmp_path / "a")
    same = pa.Table.from_pylist([{**rows[0], "label": label} for label in ("safe", "unsafe")], SAFETY)
    with pytest.raises(DataError, match="are they the same prompts"):
        orthogonalise_weights(base, "float32", block(), same, tmp_path / "a")
    with pytest.raises(ConfigError, match=r"hidden_states\[9\] is no layer's output"):
        orthogonalise_weights(base, "float32", block(target_layer=9), prompts(), tmp_path / "a")
