"""Language models on disk: load, fingerprint, copy and check a checkpoint."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from rebend.errors import ModelError
from rebend.io.checksums import bytes_digest, file_digest
from rebend.io.files import read_json, write_json, write_text
from rebend.models.chat_template import TemplateRules, check_template, fixed_template
from rebend.models.remote_code import CODE_FILE, runs_code, take_code
from rebend.models.text_model import take_text_model

FINGERPRINT_FILE = "fingerprint.json"
_LIGHT = (".json", ".jinja", ".model", ".txt")
_TERMS = ("README.md", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


@dataclass(frozen=True)
class Policy:
    """A causal language model with its tokenizer (left padding, pad token set), ready to generate."""

    model: Any
    tokenizer: Any
    fingerprint: str
    revision: str = ""  # commit of the repository of the model or of its base; "" for none

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return self.model.device

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks L."""
        return self.model.config.num_hidden_layers

    @property
    def hidden_size(self) -> int:
        """Width D."""
        return self.model.config.hidden_size

    @property
    def context(self) -> float:
        """Number of positions of the context; infinity if the configuration has none."""
        return getattr(self.model.config, "max_position_embeddings", None) or inf


def best_device() -> torch.device:
    """Return the first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_policy(
    path: str | Path, dtype: str = "float32", device: torch.device | None = None, *, chat: bool = True, bits: int = 16
) -> Policy:
    """Load a checkpoint folder in eval mode.

    Without `chat` no chat template is needed: a judge writes its own prompt. With 4 or 8 `bits`, bitsandbytes quantises
    the linear weights, for training an adapter. Attention is flash-attn's if it is installed and can be used, else
    torch's. Raises `ModelError` for a folder without tokenizer or chat template, and for weight files that hold other
    objects.
    """
    tokenizer = load_tokenizer(path)
    if chat and not tokenizer.chat_template:
        raise ModelError(f"{path}: the tokenizer has no chat template; name one with the model's key `chat_template`")
    device = device or best_device()
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "local_files_only": True}
    if bits < 16:
        options |= {"quantization_config": _quantization(bits, options["dtype"]), "device_map": {"": device}}
    model: Any
    with only_weights(path):
        try:
            model = AutoModelForCausalLM.from_pretrained(
                path, trust_remote_code=runs_code(path), **options, **_attention(dtype, device)
            )
        except ValueError:  # an architecture without flash attention
            model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=runs_code(path), **options)
    model = (model if bits < 16 else model.to(device)).eval()
    return Policy(model, tokenizer, fingerprint(path), revision(path))


@contextmanager
def only_weights(path: str | Path) -> Iterator[None]:
    """Inside the block, raise `ModelError` for a weight file of `path` that holds code; the code is not run."""
    try:
        yield
    except pickle.UnpicklingError:  # torch's message advises to run the file
        raise ModelError(
            f"{path}: a file of weights holds more than weights, or is damaged; nothing in it was run. "
            "Use a repository with safetensors"
        ) from None


def why_not_loaded(path: str | Path, error: Exception) -> str:
    """Return the reason, in one line, why transformers cannot load a folder."""
    if "trust_remote_code" in str(error):
        return f"{path}: needs Python code of its repository, which is run only if the block sets `trust_remote_code`"
    return f"{path}: {str(error).splitlines()[0]}"


def _attention(dtype: str, device: torch.device) -> dict[str, str]:
    """Return the option for flash attention if it is installed and can run; else the library chooses."""
    usable = device.type == "cuda" and dtype != "float32" and find_spec("flash_attn") is not None
    return {"attn_implementation": "flash_attention_2"} if usable else {}


def _quantization(bits: int, dtype: torch.dtype) -> BitsAndBytesConfig:
    if find_spec("bitsandbytes") is None:
        raise ModelError(f"base_bits {bits} needs the package bitsandbytes; install the extra: pip install '.[gpu]'")
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def load_tokenizer(path: str | Path) -> Any:
    """Load a tokenizer that pads on the left, with EOS as pad token if it has none.

    The EOS of a tokenizer without one is the first EOS of the checkpoint's configuration. Raises `ModelError` if there
    is no tokenizer that can be loaded, or none with a pad or EOS token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=runs_code(path), padding_side="left"
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{why_not_loaded(path, error)} (no tokenizer can be loaded)") from error
    if tokenizer.eos_token is None and (end := _configured_eos(Path(path))) is not None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"{path}: the tokenizer has neither a pad token nor an EOS token, and config.json and "
                "generation_config.json name no `eos_token_id`: responses could not end. Set `eos_token` in "
                "tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _configured_eos(path: Path) -> int | None:
    """Return the first EOS token in generation_config.json or config.json; None if there is none."""
    for file in (path / "generation_config.json", path / "config.json"):
        ids = read_json(file).get("eos_token_id") if file.is_file() else None
        first = next(iter(ids), None) if isinstance(ids, list) else ids
        if first is not None:
            return int(first)
    return None


def fingerprint(path: str | Path) -> str:
    """Return 16 hex digits that change if a weight, the configuration or the tokenizer changes."""
    path = Path(path)
    stored = path / FINGERPRINT_FILE
    if stored.exists():
        return read_json(stored)["fingerprint"]
    parts = (file.name.encode() + bytes.fromhex(file_digest(file)) for file in _model_files(path))
    return bytes_digest(b"".join(parts))[:16]


def revision(path: str | Path) -> str:
    """Return the commit of the repository of a folder or of its base model; "" if there is no repository."""
    stored = Path(path) / FINGERPRINT_FILE
    return read_json(stored).get("revision", "") if stored.exists() else ""


def stamp(path: str | Path, revision: str = "") -> str:
    """Write fingerprint and revision beside the weights, so that later jobs need not read the weights for them."""
    value = fingerprint(path)
    facts = {"fingerprint": value, **({"revision": revision} if revision else {})}
    write_text(Path(path) / FINGERPRINT_FILE, json.dumps(facts) + "\n")
    return value


def link_checkpoint(
    source: str | Path,
    target: Path,
    *,
    chat_template: str | None = None,
    rules: TemplateRules | None = None,
    hub: Mapping[str, Any] | None = None,
) -> None:
    """Fill the empty folder `target` with a checkpoint: weights as links, small files and licence files as copies.

    `chat_template` is the text of a Jinja template that replaces the tokenizer's own; `rules` fix its arguments and its
    date. Code is copied only if the settings of the `hub` repository have `trust_remote_code`.
    """
    source = Path(source)
    for file in _model_files(source):
        if file.name == CODE_FILE:
            continue  # only the model's block may allow code
        destination = target / file.name
        if file.suffix in _LIGHT:
            shutil.copyfile(file, destination)
        else:
            destination.symlink_to(file.resolve())
    for file in terms_files(source):
        shutil.copyfile(file, target / file.name)
    if hub is not None and hub["trust_remote_code"]:
        take_code(source, target, hub)
    set_template(target, chat_template, rules)


def set_template(folder: Path, chat_template: str | None = None, rules: TemplateRules | None = None) -> None:
    """Replace the chat template of a checkpoint by the text `chat_template`, with arguments and date fixed by `rules`.

    Without `chat_template`, the tokenizer's own template is fixed; without anything to fix, nothing is written.
    """
    rules = rules or TemplateRules()
    if chat_template is None and rules.fixes_something:
        chat_template = _own_template(folder)
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(fixed_template(chat_template, rules), encoding="utf-8")


def _own_template(path: Path) -> str:
    """Return the template of a folder's tokenizer. Raises `ModelError` if it has none."""
    tokenizer = load_tokenizer(path)
    if not tokenizer.chat_template:
        raise ModelError(f"{path}: the tokenizer has no chat template; name one with the model's key `chat_template`")
    return str(tokenizer.get_chat_template())


def terms_files(path: Path) -> list[Path]:
    """Return the model card and the licence files of a folder, if it has any."""
    return sorted({file for pattern in _TERMS for file in path.glob(pattern) if file.is_file()})


def plain_checkpoint(folder: Path) -> dict[str, Any]:
    """Make the linked checkpoint in `folder` one that every stage can use; return facts for the record.

    A multimodal model becomes its text model (`rebend.models.text_model`). A `pad_token_id` beyond the vocabulary, with
    which no embedding can be made, becomes that of the tokenizer, or none. Raises `ModelError` if the text model cannot
    be taken out.
    """
    if not (folder / "config.json").exists() or runs_code(folder):
        return {}
    facts = take_text_model(folder, weight_names(folder))
    config = read_json(folder / "config.json")
    pad, size = config.get("pad_token_id"), config.get("vocab_size")
    if isinstance(pad, int) and isinstance(size, int) and not 0 <= pad < size:
        own = load_tokenizer(folder).pad_token_id
        write_json(folder / "config.json", {**config, "pad_token_id": own if own < size else None})
        facts["replaced_pad_token_id"] = pad
    return facts


def check_checkpoint(
    path: str | Path, *, n_layers: int | None = None, chat: bool = True, rules: TemplateRules | None = None
) -> dict[str, str]:
    """Return facts for the record. Raises `ModelError` for a folder that is no complete checkpoint.

    Checks the configuration, all weight files of the index, tokenizer, vocabulary size, chat template (if `chat`, by
    `rules`) and, if given, the number of decoder blocks.
    """
    path = Path(path)
    if not (path / "config.json").exists():
        raise ModelError(f"{path}: has no config.json; a model folder in hub layout is expected")
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=runs_code(path))
    except (OSError, ValueError) as error:
        raise ModelError(f"{why_not_loaded(path, error)} (no config.json that can be read)") from error
    missing = [name for name in weight_names(path) if not (path / name).exists()]
    if missing:
        raise ModelError(f"{path}: weight files are missing: {', '.join(missing)}")
    if n_layers is not None and config.num_hidden_layers != n_layers:
        raise ModelError(
            f"{path}: has {config.num_hidden_layers} decoder blocks; the model's key `n_layers` is {n_layers}"
        )
    tokenizer = load_tokenizer(path)
    _check_vocabulary(path, tokenizer, config.vocab_size)
    if chat and not tokenizer.chat_template:
        raise ModelError(f"{path}: the tokenizer has no chat template; name one with the model's key `chat_template`")
    if not chat:
        return {}
    try:
        return check_template(tokenizer, rules)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _check_vocabulary(path: Path, tokenizer: Any, size: int) -> None:
    """Raise `ModelError` if the tokenizer has pieces without an embedding, and name some of them."""
    beyond = {piece: number for piece, number in tokenizer.get_vocab().items() if number >= size}
    if not beyond:
        return
    named = ", ".join(f"{piece!r} ({number})" for piece, number in sorted(beyond.items(), key=lambda item: item[1])[:4])
    if beyond.keys() <= set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab()):
        advice = "added tokens without an embedding: remove them from the tokenizer, or resize the model's embeddings"
    else:
        advice = "they do not belong together"
    raise ModelError(f"{path}: the model has {size} embeddings, and the tokenizer has pieces beyond: {named}; {advice}")


def weight_names(path: Path) -> list[str]:
    """Return the names of the weight files of a checkpoint; of several formats, those that are loaded.

    Raises `ModelError` for an index that names a file outside the folder.
    """
    for single in ("model.safetensors", "pytorch_model.bin"):
        if (path / single).exists():
            return [single]
        if (index := path / f"{single}.index.json").exists():
            names = sorted(set(read_json(index)["weight_map"].values()))
            if outside := [name for name in names if Path(name).name != name or name == ".."]:
                raise ModelError(f"{index}: names {outside[0]!r}, which is no file beside it")
            return names
    return ["model.safetensors"]


def _model_files(path: Path) -> Iterator[Path]:
    """Yield the files of a checkpoint in a fixed order, without model card and other files of a training."""
    for file in sorted(path.iterdir()):
        if file.is_file() and file.name != FINGERPRINT_FILE and file.suffix in (*_LIGHT, ".safetensors", ".bin"):
            yield file
