"""The paths in `results/`: one function per kind of result; the arguments are names or wildcards.

A path contains exactly the choices that its contents depend on. `model` is a base model, or `base+adapter`.
"""

from __future__ import annotations

ROOT = "results"
PROGRESS = f"{ROOT}/progress"
ASSETS = f"{ROOT}/assets/files"  # downloaded files; a manifest describes each
ASSET_LOCK = "config/assets.lock.json"  # committed together with the configuration
JUDGE_STORE = f"{ROOT}/judge_store"  # judges' replies, shared by all studies; no output of a stage

# Folder of checkpoints → section of the catalogue
SHELVES = {"models": "models", "reward_models": "rewards", "encoders": "encoders", "judge_models": "safety_judges"}


def model_name(base: str, adapter: str) -> str:
    """Return the name of a base model after an adapter (`none`: the base itself)."""
    return base if adapter == "none" else f"{base}+{adapter}"


def base_and_adapter(model: str) -> tuple[str, str]:
    """Return base model and adapter of a model's name; the adapter is `none` for a base model."""
    base, _, adapter = model.partition("+")
    return base, adapter or "none"


def asset(name: str) -> str:
    """Return the path of the manifest of an asset from the hub or from an address."""
    return f"{ROOT}/assets/{name}.json"


def data(dataset: str) -> str:
    """Return the path of a prepared data set."""
    return f"{ROOT}/data/{dataset}.parquet"


def overlap(dataset: str) -> str:
    """Return the path of the check that nothing learnt from the prompts of a data set."""
    return f"{ROOT}/overlap/{dataset}.json"


def model(name: str) -> str:
    """Return the checkpoint folder of a model; an adapted model is merged and has the shape of its base model."""
    return f"{ROOT}/models/{name}"


def reward_model(reward: str) -> str:
    """Return the checkpoint folder of a reward model."""
    return f"{ROOT}/reward_models/{reward}"


def encoder(name: str) -> str:
    """Return the checkpoint folder of a sentence encoder."""
    return f"{ROOT}/encoders/{name}"


def adapter(base: str, name: str) -> str:
    """Return the folder of an adapter and its training metrics."""
    return f"{ROOT}/adapters/{base}/{name}"


def states(base: str, adapter_name: str, dataset: str) -> str:
    """Return the path of projected hidden states before and after an adapter."""
    return f"{ROOT}/projections/{base}/{adapter_name}/{dataset}.parquet"


def activations(model_: str, name: str) -> str:
    """Return the folder of a model's responses and hidden states: shards and manifest."""
    return f"{ROOT}/activations/{model_}/{name}"


def manifest(model_: str, name: str) -> str:
    """Return the path of an activations folder's manifest: its shards with their digests."""
    return f"{activations(model_, name)}/manifest.json"


def sampled(model_: str, name: str) -> str:
    """Return the path of all responses of an activations folder."""
    return f"{activations(model_, name)}/responses.parquet"


def shard(model_: str, name: str, kind: str, number: str, count: str) -> str:
    """Return the path of a shard's `states` or `responses`; `number` and `count` have five digits."""
    return f"{activations(model_, name)}/{kind}-{number}-of-{count}.parquet"


def shards(model_: str, name: str, kind: str, count: int) -> list[str]:
    """Return the paths of the `states` or `responses` of all shards."""
    return [shard(model_, name, kind, f"{number:05d}", f"{count:05d}") for number in range(count)]


def rewards(model_: str, activations_: str, reward: str) -> str:
    """Return the path of the rewards of an activations folder's responses."""
    return f"{ROOT}/rewards/{model_}/{activations_}/{reward}.parquet"


def value_model(model_: str, name: str) -> str:
    """Return the folder of a value network."""
    return f"{ROOT}/value_models/{model_}/{name}"


def direction(model_: str, name: str) -> str:
    """Return the path of a fixed direction in a model's hidden states."""
    return f"{ROOT}/directions/{model_}/{name}.json"


def strength(model_: str, control: str) -> str:
    """Return the path of a control's chosen strength, with the table that it was chosen from."""
    return f"{ROOT}/strengths/{model_}/{control}.json"


def responses(model_: str, dataset: str, control: str) -> str:
    """Return the path of a model's responses under a control."""
    return f"{ROOT}/responses/{model_}/{dataset}/{control}.parquet"


def reward_scores(reward: str, model_: str, dataset: str, control: str) -> str:
    """Return the path of the rewards of responses."""
    return f"{ROOT}/scores/reward/{reward}/{model_}/{dataset}/{control}.parquet"


def reference_scores(reward: str, dataset: str) -> str:
    """Return the path of the rewards of a data set's preferred answers."""
    return f"{ROOT}/reference_scores/{reward}/{dataset}.parquet"


def diversity_scores(model_: str, dataset: str, control: str) -> str:
    """Return the path of the diversity of responses."""
    return f"{ROOT}/scores/diversity/{model_}/{dataset}/{control}.parquet"


def coherence_scores(encoder_: str, model_: str, dataset: str, control: str) -> str:
    """Return the path of the coherence of responses with their prompts."""
    return f"{ROOT}/scores/coherence/{encoder_}/{model_}/{dataset}/{control}.parquet"


def perplexity_scores(answers: str) -> str:
    """Return the path of the perplexities of responses or completions; `answers` is their `answers_of`."""
    return f"{ROOT}/scores/perplexity/{answers}.parquet"


def repetition_scores(answers: str) -> str:
    """Return the path of the repetition of responses or completions; `answers` is their `answers_of`."""
    return f"{ROOT}/scores/repetition/{answers}.parquet"


def answers_of(path: str) -> str:
    """Return the part of the path of responses or completions that names them: "responses/{model}/…"."""
    return path.removeprefix(f"{ROOT}/").removesuffix(".parquet")


def answers(name: str) -> str:
    """Return the path of responses or completions by their `answers_of`."""
    return f"{ROOT}/{name}.parquet"


def chat_perplexity(model_: str, dataset: str) -> str:
    """Return the path of a model's perplexities on the dialogues of a chat data set."""
    return f"{ROOT}/scores/chat_perplexity/{dataset}/{model_}.parquet"


def embeddings(encoder_: str, dataset: str) -> str:
    """Return the path of the sentence embeddings of a data set's prompts."""
    return f"{ROOT}/embeddings/{encoder_}/{dataset}.parquet"


def verdicts(judge: str, model_: str, dataset: str, control: str) -> str:
    """Return the path of a judge's verdicts on responses against preferred answers."""
    return f"{ROOT}/win_rate_verdicts/{judge}/{model_}/{dataset}/{control}.parquet"


def completions(model_: str, dataset: str, attack: str, control: str) -> str:
    """Return the path of an attacked model's responses under a control; only their owner can read them."""
    return f"{ROOT}/completions/{model_}/{dataset}/{attack}/{control}.parquet"


def safety(safety_judge: str, model_: str, dataset: str, attack: str, control: str) -> str:
    """Return the path of a safety judge's verdicts on completions."""
    return f"{ROOT}/safety_verdicts/{safety_judge}/{model_}/{dataset}/{attack}/{control}.parquet"


def capability(model_: str, name: str) -> str:
    """Return the path of a model's scores in a capability benchmark, one per question."""
    return f"{ROOT}/capability/{model_}/{name}.parquet"


def judge_model(safety_judge: str) -> str:
    """Return the checkpoint folder of a safety judge."""
    return f"{ROOT}/judge_models/{safety_judge}"


def study(name: str, kind: str) -> str:
    """Return the path of the tables, figures or report of one study."""
    return f"{ROOT}/studies/{name}/{kind}"


def record(result: str) -> str:
    """Return the path of a result's record: `x.run.json` for `x.parquet`, `x.json`, `x.html` and the folder `x`."""
    for suffix in (".parquet", ".json", ".html"):
        result = result.removesuffix(suffix)
    return f"{result}.run.json"
