"""Checks before the first job: files, model folders, tokens and keys that the study needs."""

from __future__ import annotations

import getpass
import importlib.util
import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rebend.config.adapters import TrainedAdapter
from rebend.config.datasets import REFUSAL_COLUMN, DatasetBlock, SampledPairsBlock
from rebend.config.safety import GcgBlock
from rebend.data.asset_lock import lock_mistakes
from rebend.data.assets import Asset, block_assets, token_mistake
from rebend.errors import ConfigError, likely_typo
from rebend.pipeline.checks.files import check_source, file_mistakes, table_mistakes
from rebend.pipeline.checks.system_turns import system_turn_mistakes
from rebend.pipeline.graph import paths
from rebend.pipeline.graph.plan import Plan
from rebend.pipeline.stages.common import local_path


def check_before_fetch(plan: Plan) -> None:
    """Raise `ConfigError` with every reason why an asset of a study cannot be fetched."""
    if mistakes := asset_mistakes(plan):
        raise ConfigError("\n  " + "\n  ".join(mistakes))


def asset_mistakes(plan: Plan) -> list[str]:
    """List gated assets without a token, and fetched assets that differ from the lock file."""
    tokens = [mistake for _, mistake in missing_tokens(plan)]
    return tokens + lock_mistakes(paths.ASSET_LOCK, (paths.asset(name) for name in plan.assets))


def missing_tokens(plan: Plan) -> Iterator[tuple[Asset, str]]:
    """Yield each gated asset without a token, with a message, if it is neither fetched nor in the hub's cache."""
    for section, names in plan.used.items():
        for name in names:
            for asset in block_assets(plan.config[section][name]):
                if not asset.gated or Path(paths.asset(asset.name)).exists():
                    continue
                first = asset.files[0] if asset.kind == "dataset" else None
                if mistake := token_mistake(f"{section}.{name}.hub", asset.where, asset.revision, first):
                    yield asset, mistake


def check_before_jobs(plan: Plan) -> None:
    """Raise `ConfigError` with every missing file, key or package that would make a job fail later."""
    mistakes = [
        *_datasets(plan),
        *_capabilities(plan),
        *_checkpoints(plan),
        *_value_models(plan),
        *_adapters(plan),
        *asset_mistakes(plan),
        *_judge_keys(plan),
        *_reward_addresses(plan),
        *_packages(plan),
    ]
    mistakes = mistakes or list(system_turn_mistakes(plan))  # it reads the files that the others check
    if mistakes:
        raise ConfigError("\n  " + "\n  ".join(mistakes))


def check_gpus(plan: Plan, gpus: int) -> None:
    """Raise `ConfigError` if a job needs more than `gpus` GPUs; on a machine without any, jobs run on CPUs."""
    needed = {
        f"adapters.{adapter}.ranks": plan.config["adapters"][adapter].ranks
        for base, adapter in plan.trained
        if plan.config["models"][base].resources.gpu
    }
    for section in ("models", "rewards", "encoders", "safety_judges"):
        blocks = {name: plan.config[section][name] for name in plan.used[section]}
        needed |= {
            f"{section}.{name}.resources": block.resources.gpu
            for name, block in blocks.items()
            if hasattr(block, "resources")
        }
    mistakes = [
        f"{key}: a job needs {count} GPUs, this machine has {gpus}" for key, count in needed.items() if count > gpus
    ]
    if gpus and mistakes:
        raise ConfigError("\n  " + "\n  ".join(mistakes))


def _datasets(plan: Plan) -> Iterator[str]:
    for name in plan.used["datasets"]:
        block = plan.config["datasets"][name]
        if isinstance(block, SampledPairsBlock) and block.safe.file:
            file = Path(local_path(plan.config, block.safe.file))
            yield from (f"datasets.{name}.safe.file: {mistake}" for mistake in table_mistakes(file, REFUSAL_COLUMN))
        if isinstance(block, DatasetBlock) and block.source.local is not None:
            second = block.reference and block.reference.local
            reference = Path(local_path(plan.config, second)) if second else None
            source = Path(local_path(plan.config, block.source.local))
            yield from check_source(f"datasets.{name}", block.reader, block.kind, source, reference, block.only)


def _capabilities(plan: Plan) -> Iterator[str]:
    for name in plan.used["capabilities"]:
        block = plan.config["capabilities"][name]
        for source in (*block.sources, *([block.examples] if block.examples else [])):
            if source.local is not None:
                yield from (
                    f"capabilities.{name}: {m}" for m in file_mistakes(Path(local_path(plan.config, source.local)))
                )


def _checkpoints(plan: Plan) -> Iterator[str]:
    for section in ("models", "rewards", "encoders", "safety_judges"):
        for name in plan.used[section]:
            block = plan.config[section][name]
            if getattr(block, "gguf", None):
                yield from gguf_mistakes(f"models.{name}.gguf", Path(local_path(plan.config, block.gguf)))
            if getattr(block, "local", None):
                template = getattr(block, "chat_template", None)
                chat = section == "models" and template is None
                for problem in _folder_mistakes(Path(local_path(plan.config, block.local)), chat):
                    yield f"{section}.{name}.local: {problem}"
                if template and not Path(template).is_file():
                    yield f"{section}.{name}.chat_template: there is no file {template}"
    yield from _layers(plan)


def gguf_mistakes(key: str, file: Path) -> Iterator[str]:
    """Yield why the file under `key` cannot be a GGUF file."""
    if not file.is_file():
        yield f"{key}: there is no file {file}"
        return
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            yield f"{key}: {file} is no GGUF file (its first four bytes are not 'GGUF')"


def _value_models(plan: Plan) -> Iterator[str]:
    """Yield released value models whose file is missing."""
    for name in plan.used["value_models"]:
        path = getattr(plan.config["value_models"][name], "local", None)
        if path is not None and not Path(local_path(plan.config, path)).is_file():
            yield f"value_models.{name}.local: there is no file {local_path(plan.config, path)}"


def _adapters(plan: Plan) -> Iterator[str]:
    """Yield released adapters whose folder is missing."""
    for name in plan.used["adapters"]:
        path = getattr(plan.config["adapters"][name], "local", None)
        if path is not None and not Path(local_path(plan.config, path)).is_dir():
            yield f"adapters.{name}.local: there is no folder {local_path(plan.config, path)}"


def _folder_mistakes(folder: Path, chat: bool) -> Iterator[str]:
    if not folder.is_dir():
        yield f"there is no folder {folder}; a model on the hub is named by `hub: {{repo, revision}}`"
        return
    if not (folder / "config.json").is_file():
        yield f"{folder} has no config.json; a model folder in hub layout is expected"
        return
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        yield f"{folder} has no weights (*.safetensors)"
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")):
        yield f"{folder} has no tokenizer (tokenizer.json)"
        return
    if chat and not _has_template(folder):
        yield f"{folder}: the tokenizer has no chat template; name a file with the model's key `chat_template`"
    n_tokens, vocab_size = _vocabulary_size(folder), _read_object(folder / "config.json").get("vocab_size")
    if n_tokens is not None and vocab_size is not None and n_tokens > vocab_size:
        yield f"{folder}: the tokenizer has {n_tokens} tokens, the model only {vocab_size}; they do not fit together"


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    return "chat_template" in _read_object(folder / "tokenizer_config.json")


def _vocabulary_size(folder: Path) -> int | None:
    """Return the largest token id plus one in a tokenizer.json; None if its vocabulary is not a mapping."""
    tokenizer = _read_object(folder / "tokenizer.json")
    vocabulary = tokenizer.get("model", {}).get("vocab")
    if not isinstance(vocabulary, dict):
        return None
    return 1 + max([*vocabulary.values(), *(token["id"] for token in tokenizer.get("added_tokens", []))], default=-1)


def _read_object(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; {} if the file is missing."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _layers(plan: Plan) -> Iterator[str]:
    """Yield adapters whose target layers are beyond the last block of a local model."""
    for base, adapter_name in plan.adapted:
        local = plan.config["models"][base].local
        config = _read_object(Path(local_path(plan.config, local)) / "config.json") if local else {}
        depth = config.get("text_config", config).get("num_hidden_layers")  # a multimodal model's text model is used
        adapter = plan.config["adapters"][adapter_name]
        last = adapter.last_target() if isinstance(adapter, TrainedAdapter) else None
        if depth is not None and last is not None and last > depth:
            layers = f"its target layers reach hidden_states[{last}]"
            yield f"adapters.{adapter_name}: {layers}; '{base}' has only {depth} blocks"


def _judge_keys(plan: Plan) -> Iterator[str]:
    if os.environ.get("OPENAI_API_KEY"):
        return
    for section in ("judges", "safety_judges"):
        for name in plan.used[section]:
            if plan.config[section][name].method in ("openai", "rubric"):
                yield f"{section}.{name}: OPENAI_API_KEY is not set (for a server without keys, set it to any text)"


def _reward_addresses(plan: Plan) -> Iterator[str]:
    """Yield missing environment variables of endpoints; the first job, `check_reward_endpoint`, tests the endpoint."""
    for name in plan.used["rewards"]:
        endpoint = plan.config["rewards"][name].http
        if endpoint is not None and not endpoint.url and not os.environ.get("REWARD_URL"):
            yield f"rewards.{name}.http: has no `url`, and REWARD_URL is not set"
        if endpoint is not None and endpoint.key and not os.environ.get("REWARD_API_KEY"):
            yield f"rewards.{name}.http: REWARD_API_KEY is not set, but `key: true` needs it"


def _packages(plan: Plan) -> Iterator[str]:
    """Yield blocks that need a package which is not installed."""
    for name in plan.used["attacks"]:
        if isinstance(plan.config["attacks"][name], GcgBlock) and importlib.util.find_spec(GcgBlock.package) is None:
            yield f"attacks.{name}: {GcgBlock.missing}"
    for name in plan.used["models"]:
        if plan.config["models"][name].from_gguf and importlib.util.find_spec("gguf") is None:
            yield f"models.{name}: a GGUF file needs the package gguf; install the extra: pip install '.[gguf]'"


def check_accounts(settings: Iterable[str]) -> None:
    """Raise `ConfigError` for an account in the values of `slurm_account` that this user does not have.

    Passes on a cluster without accounting. Snakemake's executor checks accounts too, but a run with a group of jobs
    that it cannot submit then waits without a message.
    """
    accounts = _account_names(settings)
    known = _known_accounts() if accounts else set()
    unknown = [account for account in accounts if account.lower() not in known]
    if known and unknown:
        raise ConfigError(_account_mistake(unknown[0], known))


def _account_names(settings: Iterable[str]) -> list[str]:
    """Return the names in values of `slurm_account`: each value may list several, separated by commas or spaces."""
    return sorted({name for value in settings for name in re.split(r"[,\s]+", value) if name})


def _known_accounts() -> set[str]:
    """Return this user's accounts in small letters; none if the cluster has no accounting, or does not answer."""
    command = ["sacctmgr", "-n", "-P", "-s", "list", "user", getpass.getuser(), "format=account"]
    try:
        listing = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return set()
    return {line.strip().lower() for line in listing.splitlines() if line.strip()}


def _account_mistake(account: str, known: Iterable[str]) -> str:
    return (
        f"slurm_account: '{account}' is none of your accounts on this cluster ({', '.join(sorted(known))})."
        f"{likely_typo(account, known)} It is set in the profile's `default-resources`, or on the command line."
    )
