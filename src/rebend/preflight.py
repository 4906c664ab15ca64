"""What is looked at before any job starts: files, model folders, tokens and keys that the study needs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rebend import paths
from rebend.errors import ConfigError
from rebend.plan import Plan
from rebend.preflight_data import check_source


def check_sources(plan: Plan) -> None:
    """Raise `ConfigError` with every local file or folder of the study that cannot be what it should."""
    mistakes = [*_datasets(plan), *_checkpoints(plan)]
    if mistakes:
        raise ConfigError("\n  " + "\n  ".join(mistakes))


def check_before_jobs(plan: Plan) -> None:
    """Raise `ConfigError` for secrets that a job would miss after hours: asked for only when jobs will run."""
    mistakes = [*_tokens(plan), *_judge_keys(plan)]
    if mistakes:
        raise ConfigError("\n  " + "\n  ".join(mistakes))


def _datasets(plan: Plan) -> Iterator[str]:
    for name in plan.used["datasets"]:
        block = plan.config["datasets"][name]
        for key in ("source", "reference"):
            source = getattr(block, key)
            if source is not None and source.local is not None:
                reader = block.reader if key == "source" else None
                for problem in check_source(reader, block.kind, Path(plan.local(source.local))):
                    yield f"datasets.{name}.{key}: {problem}"


def _checkpoints(plan: Plan) -> Iterator[str]:
    for section in ("models", "rewards", "encoders"):
        for name in plan.used[section]:
            block = plan.config[section][name]
            if block.local:
                template = getattr(block, "chat_template", None)
                chat = section == "models" and template is None
                for problem in _folder(Path(plan.local(block.local)), chat):
                    yield f"{section}.{name}.local: {problem}"
                if template and not Path(plan.local(template)).is_file():
                    yield f"{section}.{name}.chat_template: there is no file {plan.local(template)}"
    yield from _layers(plan)


def _folder(folder: Path, chat: bool) -> Iterator[str]:
    if not (folder / "config.json").is_file():
        yield f"{folder} has no config.json; a model folder in hub layout is expected"
        return
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        yield f"{folder} has no weights (*.safetensors)"
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")):
        yield f"{folder} has no tokenizer (tokenizer.json)"
    elif chat and not _has_template(folder):
        yield f"{folder}: the tokenizer has no chat template; name a file with the model's key `chat_template`"


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    described = folder / "tokenizer_config.json"
    return described.is_file() and "chat_template" in json.loads(described.read_text(encoding="utf-8"))


def _layers(plan: Plan) -> Iterator[str]:
    """Target layers against the depth that a local folder states."""
    for base, bend_name, _ in plan.bent:
        local = plan.config["models"][base].local
        config = Path(plan.local(local)) / "config.json" if local else None
        if config is None or not config.is_file():
            continue
        depth = json.loads(config.read_text(encoding="utf-8")).get("num_hidden_layers")
        bend = plan.config["bends"][bend_name]
        last = bend.target_layer_start_idx + bend.layers_window_size - 1
        if depth is not None and last > depth:
            yield (
                f"bends.{bend_name}: target_layer_start_idx {bend.target_layer_start_idx} and layers_window_size "
                f"{bend.layers_window_size} reach hidden_states[{last}]; '{base}' has only {depth} blocks"
            )


def _tokens(plan: Plan) -> Iterator[str]:
    if os.environ.get("HF_TOKEN") or (Path(_hub_home()) / "token").is_file():
        return
    for section in ("datasets", "models", "rewards"):
        for name in plan.used[section]:
            block = plan.config[section][name]
            hub: Any = block.source.hub if section == "datasets" else block.hub
            if hub is not None and hub.gated and not Path(_result(section, name)).exists():
                yield (
                    f"{section}.{name}.hub: {hub.repo} is gated; accept its licence on its hub page, "
                    "then set HF_TOKEN to an access token of that account"
                )


def _judge_keys(plan: Plan) -> Iterator[str]:
    for name in plan.used["judges"]:
        if plan.config["judges"][name].method == "openai" and not os.environ.get("OPENAI_API_KEY"):
            yield f"judges.{name}: OPENAI_API_KEY is not set (any text will do for a server that asks for none)"


def _hub_home() -> str:
    return os.environ.get("HF_HOME") or str(Path("~/.cache/huggingface").expanduser())


def _result(section: str, name: str) -> str:
    kinds = {"datasets": paths.data, "models": paths.model, "rewards": paths.reward_model}
    return kinds[section](name)
