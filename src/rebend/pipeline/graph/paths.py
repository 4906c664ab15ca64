"""The grammar of `results/`: one function per kind of result, used with names and with wildcards alike.

A path holds exactly the choices that its contents depend on. `model` is a base model, or `base+adapter`.
"""

from __future__ import annotations

ROOT = "results"
PROGRESS = f"{ROOT}/progress"
ASSETS = f"{ROOT}/assets/files"  # what lies behind addresses; a manifest tells of each file
ASSET_LOCK = "config/assets.lock.json"  # to be committed with the configuration
JUDGE_STORE = f"{ROOT}/judge_store"  # of replies, which all studies share; no stage's output

# Folder of checkpoints → section of the catalogue
SHELVES = {"models": "models", "reward_models": "rewards", "encoders": "encoders", "judge_models": "safety_judges"}


def model_name(base: str, adapter: str) -> str:
    """Return the name of a base model after an adapter (`none`: the base itself)."""
    return base if adapter == "none" else f"{base}+{adapter}"


def base_and_adapter(model: str) -> tuple[str, str]:
    """Take a model's name apart again; the adapter is `none` for a base model."""
    base, _, adapter = model.partition("+")
    return base, adapter or "none"


def asset(name: str) -> str:
    """The manifest of what was fetched from the hub or from an address."""
    return f"{ROOT}/assets/{name}.json"


def data(dataset: str) -> str:
    """A prepared data set."""
    return f"{ROOT}/data/{dataset}.parquet"


def model(name: str) -> str:
    """A checkpoint folder: base or adapted and merged, the same shape."""
    return f"{ROOT}/models/{name}"


def reward_model(reward: str) -> str:
    """A reward model's checkpoint folder."""
    return f"{ROOT}/reward_models/{reward}"


def encoder(name: str) -> str:
    """A sentence encoder's checkpoint folder."""
    return f"{ROOT}/encoders/{name}"


def adapter(base: str, name: str) -> str:
    """An adapter folder with its training metrics."""
    return f"{ROOT}/adapters/{base}/{name}"


def states(base: str, adapter_name: str, dataset: str) -> str:
    """Projected hidden states before and after an adapter."""
    return f"{ROOT}/projections/{base}/{adapter_name}/{dataset}.parquet"


def activations(model_: str, name: str) -> str:
    """Responses and hidden states of a model: shards and manifest."""
    return f"{ROOT}/activations/{model_}/{name}"


def manifest(model_: str, name: str) -> str:
    """What an activations folder holds: its shards with their digests."""
    return f"{activations(model_, name)}/manifest.json"


def sampled(model_: str, name: str) -> str:
    """All responses of an activations folder."""
    return f"{activations(model_, name)}/responses.parquet"


def shard(model_: str, name: str, what: str, number: str, count: str) -> str:
    """The `states` or `responses` of one shard of several; both numbers have five digits."""
    return f"{activations(model_, name)}/{what}-{number}-of-{count}.parquet"


def shards(model_: str, name: str, what: str, count: int) -> list[str]:
    """The `states` or `responses` of all shards."""
    return [shard(model_, name, what, f"{number:05d}", f"{count:05d}") for number in range(count)]


def rewards(model_: str, activations_: str, reward: str) -> str:
    """Rewards of the responses of an activations folder."""
    return f"{ROOT}/rewards/{model_}/{activations_}/{reward}.parquet"


def value_model(model_: str, name: str) -> str:
    """A value network."""
    return f"{ROOT}/value_models/{model_}/{name}"


def direction(model_: str, name: str) -> str:
    """A fixed direction on a model's hidden states."""
    return f"{ROOT}/directions/{model_}/{name}.json"


def strength(model_: str, control: str) -> str:
    """The chosen strength of a control, and the table that it was chosen from."""
    return f"{ROOT}/strengths/{model_}/{control}.json"


def responses(model_: str, dataset: str, control: str) -> str:
    """Responses of a model under a control."""
    return f"{ROOT}/responses/{model_}/{dataset}/{control}.parquet"


def reward_scores(reward: str, model_: str, dataset: str, control: str) -> str:
    """Reward of each response."""
    return f"{ROOT}/scores/reward/{reward}/{model_}/{dataset}/{control}.parquet"


def reference_scores(reward: str, dataset: str) -> str:
    """Reward of each preferred answer of a data set."""
    return f"{ROOT}/reference_scores/{reward}/{dataset}.parquet"


def diversity_scores(model_: str, dataset: str, control: str) -> str:
    """Diversity of each response."""
    return f"{ROOT}/scores/diversity/{model_}/{dataset}/{control}.parquet"


def coherence_scores(encoder_: str, model_: str, dataset: str, control: str) -> str:
    """Coherence of each response with its prompt."""
    return f"{ROOT}/scores/coherence/{encoder_}/{model_}/{dataset}/{control}.parquet"


def embeddings(encoder_: str, dataset: str) -> str:
    """Sentence embeddings of a data set's prompts."""
    return f"{ROOT}/embeddings/{encoder_}/{dataset}.parquet"


def verdicts(judge: str, model_: str, dataset: str, control: str) -> str:
    """A judge's verdict on each response against the preferred answer."""
    return f"{ROOT}/win_rate_verdicts/{judge}/{model_}/{dataset}/{control}.parquet"


def completions(model_: str, dataset: str, attack: str, control: str) -> str:
    """Responses of an attacked model under a control; readable by their owner only."""
    return f"{ROOT}/completions/{model_}/{dataset}/{attack}/{control}.parquet"


def safety(safety_judge: str, model_: str, dataset: str, attack: str, control: str) -> str:
    """A safety judge's verdict on each completion."""
    return f"{ROOT}/safety_verdicts/{safety_judge}/{model_}/{dataset}/{attack}/{control}.parquet"


def capability(model_: str, name: str) -> str:
    """A model's score in each question of a capability benchmark."""
    return f"{ROOT}/capability/{model_}/{name}.parquet"


def judge_model(safety_judge: str) -> str:
    """A safety judge's checkpoint folder."""
    return f"{ROOT}/judge_models/{safety_judge}"


def study(name: str, what: str) -> str:
    """Tables, figures and report of one study."""
    return f"{ROOT}/studies/{name}/{what}"


def record(result: str) -> str:
    """The record beside a result: `x.parquet`, `x.json`, `x.html` and the folder `x` have `x.run.json`."""
    for suffix in (".parquet", ".json", ".html"):
        result = result.removesuffix(suffix)
    return f"{result}.run.json"
