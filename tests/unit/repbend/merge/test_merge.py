"""Merging an adapter: a complete checkpoint equal to base and adapter, or an error and no folder."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2Config, LlamaConfig

from rebend.config.decoding import Decoding
from rebend.errors import ModelError
from rebend.generation.generate import generate
from rebend.generation.requests import make_requests
from rebend.models.loading import check_checkpoint, fingerprint, load_policy, stamp
from rebend.repbend.merge.lora_delta import AdapterChanges, check_mergeable
from rebend.repbend.merge.merge import merge_adapter, merged_tensor, write_merged
from tests.helpers import small_policy
from tests.helpers.adapter_parts import adapted, make_adapter
from tests.helpers.small_policy import PROMPTS
from tests.helpers.training_parts import configuration, make_base, tokenizer
from tests.helpers.windowed import ARCHITECTURES, windowed_policy


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_base(tmp_path_factory.mktemp("models") / "base")
    GenerationConfig(max_new_tokens=17, eos_token_id=1).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# A base\n")
    (folder / "LICENSE").write_text("the text of the licence\n")
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("adapters") / "adapter")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def weights_of(folder: Path) -> dict[str, Tensor]:
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def merged_by_peft(base: Path, **lora: Any) -> dict[str, Tensor]:
    return adapted(base, **lora).merge_and_unload().state_dict()


@pytest.mark.parametrize(
    ("strength", "dtype", "nothing"),
    [(1e-5, "bfloat16", True), (1e-5, "float32", False), (0.1, "bfloat16", False), (0.0, "float32", True)],
)
def test_an_adapter_below_rounding_is_said_to_do_nothing(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], strength: float, dtype: str, nothing: bool
) -> None:
    facts = merge_adapter(base, make_adapter(base, tmp_path / "weak", strength), tmp_path / "merged", dtype)
    assert facts["adapter_does_nothing"] is nothing
    assert ("this adapter does nothing" in capfd.readouterr().err) is nothing
    if nothing and strength:  # every changed weight was rounded back, except for a few near a boundary
        before, after = weights_of(base), weights_of(tmp_path / "merged")
        same = [torch.equal(before[name].bfloat16(), after[name]) for name in before]
        assert sum(same) > len(same) / 2


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_merged_model_equals_base_with_adapter(base: Path, adapter: Path, tmp_path: Path, dtype: str) -> None:
    facts = merge_adapter(base, adapter, tmp_path / "merged", dtype)
    assert facts["kl"] < 0.01 * facts["adapter_effect"]["kl"]
    assert facts["max_logit_difference"] < 0.2 * facts["adapter_effect"]["max_logit_difference"]
    assert facts["fingerprint"] == fingerprint(tmp_path / "merged") != fingerprint(base)
    weights = weights_of(tmp_path / "merged")
    assert {value.dtype for value in weights.values()} == {getattr(torch, dtype)}
    assert not [name for name in weights if "lora" in name]


def test_weights_equal_pefts_bit_by_bit(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge_adapter(base, adapter, tmp_path / "merged", "float32")
    expected = merged_by_peft(base)
    for name, value in weights_of(tmp_path / "merged").items():
        assert torch.equal(value, expected[name]), name


def test_sum_is_rounded_once_in_16_bits(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge_adapter(base, adapter, tmp_path / "merged", "bfloat16")
    start, name = weights_of(base), "model.layers.1.mlp.down_proj.weight"
    change = merged_by_peft(base)[name].double() - start[name].double()
    exact = start[name].bfloat16().double() + change
    written = weights_of(tmp_path / "merged")[name].double()
    unit = torch.finfo(torch.bfloat16).eps * exact.abs()
    assert ((written - exact).abs() <= 0.5 * unit + 1e-6).all()


@pytest.mark.parametrize(
    "lora",
    [
        {"use_rslora": True},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {r"layers.1.self_attn.q_proj": 3}},
        {"target_modules": "all-linear", "exclude_modules": ["lm_head"]},
        {"layers_to_transform": [0, 2], "layers_pattern": "layers", "target_modules": ["o_proj"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"lora_alpha": 0.5},
    ],
)
def test_scales_and_modules_of_other_adapters_equal_pefts(base: Path, tmp_path: Path, lora: dict) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", **lora)
    merge_adapter(base, adapter, tmp_path / "merged", "float32")
    expected, start = merged_by_peft(base, **lora), weights_of(base)
    changed = 0
    for name, value in weights_of(tmp_path / "merged").items():
        assert torch.equal(value, expected[name]), name
        changed += not torch.equal(value, start[name])
    assert changed >= 2


def test_other_architectures_are_merged_too(tmp_path: Path) -> None:
    sizes = {"vocab_size": len(tokenizer()), "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    base = make_base(tmp_path / "base", config=GPT2Config(**sizes))  # its modules store weights transposed, tied head
    lora = {"target_modules": ["c_attn"], "fan_in_fan_out": True}
    merge_adapter(base, make_adapter(base, tmp_path / "adapter", **lora), tmp_path / "merged", "float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    for name, value in merged_by_peft(base, **lora).items():
        assert torch.equal(value, merged[name]), name


_ATTENTION = {"mixtral": ["q_proj", "v_proj"]}  # its experts are one tensor, which no LoRA on linear layers reaches


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_answers_after_merging_as_with_the_adapter(tmp_path: Path, name: str) -> None:
    """Weights equal PEFT's bit by bit, and greedy tokens equal a plain loop over base and adapter."""
    policy = windowed_policy(name)
    base = tmp_path / "base"
    policy.model.save_pretrained(base)
    policy.tokenizer.save_pretrained(base)
    stamp(base)
    lora = {"target_modules": _ATTENTION.get(name, "all-linear"), "exclude_modules": ["lm_head"]}
    merge_adapter(base, make_adapter(base, tmp_path / "adapter", **lora), tmp_path / "merged", "float32")
    merged = load_policy(tmp_path / "merged")
    together = adapted(base, **lora)
    prompts = [request.prompt_ids for request in make_requests(merged, PROMPTS[:2])]
    settings = Decoding(max_new_tokens=6, batch_size=2)
    expected = [greedy_tokens(together, ids, settings.max_new_tokens) for ids in prompts]
    assert [response.token_ids for response in generate(merged, PROMPTS[:2], settings)] == expected
    assert expected != [greedy_tokens(policy.model, ids, settings.max_new_tokens) for ids in prompts]
    for key, value in together.merge_and_unload().state_dict().items():
        assert torch.equal(value, merged.model.state_dict()[key]), key


@torch.no_grad()
def greedy_tokens(model: Any, ids: list[int], count: int) -> list[int]:
    """Return at most `count` tokens, each from a pass over the whole text, without the end token."""
    found: list[int] = []
    for _ in range(count):
        token = int(model(input_ids=torch.tensor([[*ids, *found]]), use_cache=False).logits[0, -1].argmax())
        if token in (small_policy.tokenizer().eos_token_id, small_policy.tokenizer().pad_token_id):
            break
        found.append(token)
    return found


def tied_base(folder: Path) -> Path:
    config = configuration(len(tokenizer()))
    config.tie_word_embeddings = True
    return make_base(folder, config=config)


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    base = tied_base(tmp_path / "base")
    merge_adapter(base, make_adapter(base, tmp_path / "adapter"), tmp_path / "merged", "float32")
    assert "lm_head.weight" not in weights_of(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


def test_an_adapter_on_one_of_two_tied_weights_is_refused(tmp_path: Path) -> None:
    base = tied_base(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    with pytest.raises(ModelError, match=r"lm_head.weight' is shared by the base's embeddings and its head"):
        merge_adapter(base, adapter, tmp_path / "merged", "float32")
    assert not (tmp_path / "merged").exists()


def in_several_files(base: Path, folder: Path) -> Path:
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(folder, max_shard_size="40KB")
    return with_tokenizer(base, folder)


def in_a_pickle(base: Path, folder: Path) -> Path:
    folder.mkdir()
    torch.save(AutoModelForCausalLM.from_pretrained(base).state_dict(), folder / "pytorch_model.bin")
    return with_tokenizer(base, folder)


def without_prefix(base: Path, folder: Path) -> Path:
    folder.mkdir()
    weights = {name.removeprefix("model."): value for name, value in weights_of(base).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return with_tokenizer(base, folder)


def with_tokenizer(base: Path, folder: Path) -> Path:
    for file in base.iterdir():
        if file.suffix in (".json", ".jinja") and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
    (folder / "fingerprint.json").unlink()
    stamp(folder)
    return folder


@pytest.mark.parametrize("store", [in_several_files, in_a_pickle, without_prefix])
def test_merged_model_does_not_depend_on_the_storage_of_the_base(
    base: Path, tmp_path: Path, store: Callable[[Path, Path], Path]
) -> None:
    stored = store(base, tmp_path / "base")
    # Left over from another format: no part of the model.
    save_file({"model.norm.weight": torch.zeros(32)}, stored / "consolidated.safetensors")
    merge_adapter(stored, make_adapter(stored, tmp_path / "adapter"), tmp_path / "merged", "float32")
    check_checkpoint(tmp_path / "merged")
    index = tmp_path / "merged" / "model.safetensors.index.json"
    assert index.exists() == (store is in_several_files)
    if index.exists():
        places = json.loads(index.read_text())["weight_map"]
        assert len(set(places.values())) == len(list((tmp_path / "merged").glob("*.safetensors"))) > 2
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    expected = merged_by_peft(base)
    assert merged.keys() == expected.keys()
    for name, value in merged.items():
        assert torch.equal(value, expected[name]), name


def test_the_merged_folder_is_a_complete_portable_checkpoint(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge_adapter(base, adapter, tmp_path / "merged", "float32")
    merged = shutil.move(tmp_path / "merged", tmp_path / "elsewhere")
    check_checkpoint(merged, n_layers=3)
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(merged)
    assert new.chat_template == old.chat_template
    assert new.get_vocab() == old.get_vocab()
    assert GenerationConfig.from_pretrained(merged).max_new_tokens == 17
    names = {name for name, _ in AutoModelForCausalLM.from_pretrained(merged).named_parameters()}
    assert names == {name for name, _ in AutoModelForCausalLM.from_pretrained(base).named_parameters()}
    card = (merged / "README.md").read_text()
    assert "base_model: base" in card
    assert "license: apache-2.0" in card
    assert "- beta: 0.5" in card
    assert (merged / "LICENSE").read_text() == "the text of the licence\n"
    assert json.loads((merged / "config.json").read_text())["dtype"] == "float32"
    assert all(str(tmp_path) not in file.read_text() for file in [*merged.glob("*.json"), merged / "README.md"])
    assert not list(merged.glob("adapter*"))


def test_base_without_generation_config_gets_the_default_one(tmp_path: Path) -> None:
    config = configuration(len(tokenizer()))
    config.eos_token_id = 5
    base = make_base(tmp_path / "base", config=config)
    (base / "generation_config.json").unlink()
    (base / "fingerprint.json").unlink()
    merge_adapter(base, make_adapter(base, tmp_path / "adapter"), tmp_path / "merged", "float32")
    assert GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id == 5


def test_merging_again_gives_the_same_bytes_and_fingerprint(base: Path, adapter: Path, tmp_path: Path) -> None:
    first = merge_adapter(base, adapter, tmp_path / "a", "float32")
    assert merge_adapter(base, adapter, tmp_path / "b", "float32") == first
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_an_adapter_of_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match="trained on a base with fingerprint"):
        merge_adapter(other, adapter, tmp_path / "merged", "float32")
    assert not (tmp_path / "merged").exists()


def test_incomplete_adapter_is_refused_by_merging_and_by_writing(base: Path, adapter: Path, tmp_path: Path) -> None:
    broken = tmp_path / "adapter"
    shutil.copytree(adapter, broken)
    (broken / "adapter_model.safetensors").unlink()
    for merge in (merge_adapter, write_merged):
        with pytest.raises(ModelError, match="not a readable adapter"):
            merge(base, broken, tmp_path / "merged", "float32")
    weights = load_file(adapter / "adapter_model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, broken / "adapter_model.safetensors")
    for merge in (merge_adapter, write_merged):
        with pytest.raises(ModelError, match="does not fit the model; 1 weights differ"):
            merge(base, broken, tmp_path / "merged", "float32")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("peft_type", "IA3", "only LORA can be merged"),
        ("use_dora", True, "use_dora is True"),
        ("bias", "all", "bias is 'all'"),
        ("lora_bias", True, "lora_bias is True"),
        ("modules_to_save", ["lm_head"], r"replaces whole modules \(lm_head\)"),
        ("trainable_token_indices", [3], "trainable_token_indices is"),
        ("target_parameters", ["experts.up"], "target_parameters is"),
        ("init_lora_weights", "pissa_niter_4", "changes the base's weights"),
        ("a_later_variant", {"on": True}, "a_later_variant is"),
    ],
)
def test_other_kinds_of_adapters_are_refused_with_their_key(
    base: Path, adapter: Path, tmp_path: Path, key: str, value: object, message: str
) -> None:
    other = tmp_path / "adapter"
    shutil.copytree(adapter, other)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ModelError, match=message):
        merge_adapter(base, other, tmp_path / "merged", "float32")


def test_a_quantised_base_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(ModelError, match="quantised"):
        check_mergeable(tmp_path, adapter)


def test_weight_with_another_name_in_the_files_is_refused(base: Path, adapter: Path) -> None:
    with pytest.raises(ModelError, match="which the base's files do not have"):
        AdapterChanges(base, adapter, {"model.embed_tokens.weight"})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e6])
def test_sum_beyond_the_range_of_the_type_is_refused(bad: float) -> None:
    change = torch.zeros(3, 3)
    change[1, 2] = bad
    with pytest.raises(ModelError, match=r"not a finite torch\.float16"):
        merged_tensor(torch.ones(3, 3, dtype=torch.float16), change)


def wrong_scale(right: Tensor | None, name: str) -> Tensor | None:
    return None if right is None else 1.05 * right


def one_left_out(right: Tensor | None, name: str) -> Tensor | None:
    return None if name == "model.layers.0.self_attn.v_proj.weight" else right


@pytest.mark.parametrize("mistake", [wrong_scale, one_left_out])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_wrong_merge_raises_with_its_numbers_and_leaves_no_folder(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, mistake: Callable
) -> None:
    # In 16 bits 5 % are seen if the adapter does a great deal more than rounding does.
    adapter = make_adapter(base, tmp_path / "adapter", strength=0.02 if dtype == "float32" else 1.0)
    merge_adapter(base, adapter, tmp_path / "right", dtype)
    shutil.rmtree(tmp_path / "right")
    right = AdapterChanges.of
    monkeypatch.setattr(AdapterChanges, "of", lambda self, name: mistake(right(self, name), name))
    with pytest.raises(ModelError, match=r"logits differ by up to .* agree at a rate of .* mean KL is"):
        merge_adapter(base, adapter, tmp_path / "merged", dtype)
    assert [file.name for file in tmp_path.iterdir()] == ["adapter"]


CHILD = """
import sys
from pathlib import Path
import transformers.models.llama.modeling_llama
from rebend.repbend.merge.merge import write_merged

def now(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))

base, adapter, out = map(Path, sys.argv[1:])
out.mkdir()
Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
before = now("VmRSS:")
write_merged(base, adapter, out, "float32")
print((now("VmHWM:") - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_merging_needs_little_memory_compared_with_the_model(tmp_path: Path) -> None:
    sizes = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 7, "num_attention_heads": 8}
    base = make_base(tmp_path / "base", config=LlamaConfig(vocab_size=len(tokenizer()), **sizes))
    adapter = make_adapter(base, tmp_path / "adapter")
    model = (base / "model.safetensors").stat().st_size
    assert model > 180 * 2**20
    child = [sys.executable, "-c", CHILD, str(base), str(adapter), str(tmp_path / "merged")]
    peak = int(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
    # One tensor with its merged copy takes 20 MiB here; the whole model takes 190 MiB or more.
    assert peak < 0.5 * model
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as stream:
        assert len(list(stream.keys())) == 7 * 9 + 3
