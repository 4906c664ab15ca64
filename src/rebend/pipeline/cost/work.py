"""Work of a job: an amount that its time is proportional to.

The work of a language model is the number of tokens that pass through it times its parameters: one token after the
other (`decode`) or many at once (`forward`). A training step counts as four forward passes. The time of other jobs is
proportional to their rows, to their requests, or to the bytes that they copy or download, or is constant (`job`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebend.pipeline.cost.sizes import Facts

_PROMPT = 256  # tokens
_ATTACKED = 64  # tokens that a search passes through the model for one candidate
_JUDGED = 768  # tokens of a judge's prompt, with prompt and response in it
_TRAINING = 4  # forward passes
_GENERATED = {"gsm8k": 256, "bbh": 1024}  # tokens


@dataclass(frozen=True)
class PlannedJob:
    """A job of Snakemake's graph, or of an earlier run (from its record)."""

    rule: str
    settings: Mapping[str, Any]
    inputs: Sequence[str]
    outputs: Sequence[str] = ()
    gpus: int = 0


@dataclass(frozen=True)
class Work:
    """An amount of one kind of work (see the module)."""

    kind: str
    amount: float


def work_of(job: PlannedJob, facts: Facts) -> Work:
    """Return the work of a job; `Work("job", 1.0)` for a rule that is not in `_RULES`."""
    count = _RULES.get(job.rule)
    work = count(job, facts) if count else Work("job", 1.0)
    return work if work.amount > 0 else Work("job", 1.0)


def _prepare_dataset(job: PlannedJob, facts: Facts) -> Work:
    return Work("rows", facts.rows(job.settings["name"]))


def _sample_pairs(job: PlannedJob, facts: Facts) -> Work:
    """Samples of the model: all tries for the unsafe answers, and as many for safe ones under an instruction."""
    block = job.settings["block"]
    prompts = sum(facts.rows(name) for name in block["prompts"])
    samples = prompts * block["tries"] * (2 if block["safe"]["instruction"] else 1)
    return Work("decode", samples * block["decoding"]["max_new_tokens"] * facts.model(job.inputs))


def _sample_chats(job: PlannedJob, facts: Facts) -> Work:
    """One sample of the model per prompt."""
    block = job.settings["block"]
    prompts = sum(facts.rows(name) for name in block["prompts"])
    return Work("decode", prompts * block["decoding"]["max_new_tokens"] * facts.model(job.inputs))


def _prepare_model(job: PlannedJob, facts: Facts) -> Work:
    place = next((name for name in job.outputs if not name.endswith(".json")), "results/models/")
    return Work("bytes", 2 * facts.parameters("/".join(place.split("/")[1:3])))


def _fetch(job: PlannedJob, facts: Facts) -> Work:
    name = job.outputs[0].split("/")[-1].removesuffix(".json")
    return Work("download", facts.asset_bytes(name, job.settings["where"], job.settings["kind"]))


def _copy_model(job: PlannedJob, facts: Facts) -> Work:
    return Work("bytes", 2 * facts.model(job.inputs))


def _train_tiny_model(job: PlannedJob, facts: Facts) -> Work:
    s = job.settings
    size = s["vocab_size"] * s["hidden_size"] + 12 * s["n_layers"] * s["hidden_size"] ** 2
    return Work("forward", _TRAINING * s["steps"] * s["batch_size"] * s["context"] * size)


def _train_reward(job: PlannedJob, facts: Facts) -> Work:
    """Steps on pairs of texts; if only the head is trained, one pass over each pair through the blocks in use."""
    s = job.settings["reward"]
    length = min(s.get("max_length") or _PROMPT, _PROMPT)
    pairs, passes = s["steps"] * s["batch_size"], _TRAINING
    if s.get("n_blocks") and s.get("frozen_blocks") == s["n_blocks"] and not s.get("lora_r"):
        pairs, passes = facts.data(job.inputs), 1
    return Work("forward", passes * 2 * pairs * length * facts.model(job.inputs) * facts.share_of_blocks(s))


def _extract(job: PlannedJob, facts: Facts) -> Work:
    block = job.settings["activations"]
    return Work("decode", facts.sampled_tokens(block, job.inputs) / block["shards"] * facts.model(job.inputs))


def _scored(job: PlannedJob, facts: Facts) -> Work:
    """Rewards of as many texts as the data set has rows; an endpoint computes its rewards on another machine."""
    rows = facts.data(job.inputs)
    if job.settings["reward"]["http"]:
        return Work("rows", rows)
    return Work("forward", rows * (_PROMPT + 128) * facts.model(job.inputs, "reward_models"))


def _train_value(job: PlannedJob, facts: Facts) -> Work:
    value = job.settings["value_model"]
    block: Any = facts.plan.config["activations"][value["activations"]]
    tokens = facts.sampled_tokens(block.model_dump(), job.inputs)
    size = value_parameters(value, facts.width(job.inputs))
    return Work("forward", _TRAINING * value.get("epochs", 1) * tokens * size)


def _fit_direction(job: PlannedJob, facts: Facts) -> Work:
    block: Any = facts.plan.config["activations"][job.settings["direction"]["activations"]]
    return Work("rows", facts.rows(block.dataset) * block.samples_per_prompt)


def _choose(job: PlannedJob, facts: Facts) -> Work:
    control = job.settings["control"]
    choice = control["choice"]
    n_candidates = len(choice["grid"]) * max(1, len(choice["steps"]))
    return Work("decode", n_candidates * facts.rows(choice["dataset"]) * _decoding(control) * facts.model(job.inputs))


def _control_decode(job: PlannedJob, facts: Facts) -> Work:
    tokens = facts.data(job.inputs) * _decoding(job.settings["control"])
    return Work("decode", tokens * facts.model(job.inputs))


def _attack_decode(job: PlannedJob, facts: Facts) -> Work:
    attack = job.settings["attack"]
    n_attempts = facts.data(job.inputs) * attack["attempts"]
    tokens = n_attempts * attack.get("generations", 1) * _decoding(job.settings["control"])
    searched = n_attempts * attack.get("steps", 0) * attack.get("search_width", _TRAINING) * _ATTACKED
    forward = searched / _DECODED_IN_ONE  # in decoded tokens of the same time, so that both can be added
    return Work("decode", (tokens + forward) * facts.model(job.inputs))


def _score_safety(job: PlannedJob, facts: Facts) -> Work:
    rows = facts.data(job.inputs) * attempts(job, facts)
    if job.settings["safety_judge"]["method"] == "rubric":
        return Work("requests", rows)
    if any(name.startswith("results/judge_models/") for name in job.inputs):
        return Work("forward", rows * _JUDGED * facts.model(job.inputs, "judge_models"))
    return Work("rows", rows)


def _score_coherence(job: PlannedJob, facts: Facts) -> Work:
    return _encoded(_responses(job, facts), job, facts)


def _embed_prompts(job: PlannedJob, facts: Facts) -> Work:
    return _encoded(facts.data(job.inputs), job, facts)


def _encoded(texts: float, job: PlannedJob, facts: Facts) -> Work:
    return Work("forward", texts * job.settings["encoder"]["max_length"] * facts.model(job.inputs, "encoders"))


def _judge(job: PlannedJob, facts: Facts) -> Work:
    judge, rows = job.settings["judge"], facts.data(job.inputs)
    judged = min(rows, judge.get("sample") or rows)
    return Work("requests", 2 * judged) if judge["method"] == "openai" else Work("rows", judged)


def _score_diversity(job: PlannedJob, facts: Facts) -> Work:
    return Work("rows", _responses(job, facts))


def _score_tokens(job: PlannedJob, facts: Facts) -> Work:
    """Prompts and answers, or dialogues, of as many rows as the data set has."""
    return Work("forward", facts.data(job.inputs) * attempts(job, facts) * (_PROMPT + 128) * facts.model(job.inputs))


def _score_repetition(job: PlannedJob, facts: Facts) -> Work:
    return Work("rows", facts.rows(job.inputs[0].split("/")[3]) * attempts(job, facts))


def _train_adapter(job: PlannedJob, facts: Facts) -> Work:
    adapter = job.settings["adapter"]
    tokens = adapter["max_step"] * adapter["batch_size"] * 3 * adapter["max_length"]  # safe, unsafe and retain texts
    return Work("forward", _TRAINING * tokens * facts.model(job.inputs))


def _orthogonalise(job: PlannedJob, facts: Facts) -> Work:
    return Work("forward", facts.data(job.inputs) * _PROMPT * facts.model(job.inputs))


def _project(job: PlannedJob, facts: Facts) -> Work:
    return Work("forward", 2 * facts.data(job.inputs) * job.settings["max_length"] * facts.model(job.inputs))


def _score_capability(job: PlannedJob, facts: Facts) -> Work:
    block = job.settings["block"]
    questions, shots = block["limit"] or 1000, block["few_shot"] or 0
    if generated := block["max_new_tokens"] or _GENERATED.get(block["task"]):
        return Work("decode", questions * generated * facts.model(job.inputs))
    return Work("forward", questions * 4 * 128 * (1 + shots) * facts.model(job.inputs))


def _responses(job: PlannedJob, facts: Facts) -> int:
    """Return the rows of the data set of the responses, which are the job's first input."""
    return facts.rows(job.inputs[0].split("/")[-2])  # results/responses/{model}/{dataset}/…


def value_parameters(value: Mapping[str, Any], width: int) -> int:
    """Return the parameters of a value network on states of size `width`; a released one is assumed to be 2 × 1,024."""
    hidden, layers = value.get("hidden_size", 1024), value.get("n_layers", 2)
    return width * hidden + (layers - 2) * hidden**2 + hidden


def _decoding(control: Mapping[str, Any]) -> int:
    """Return the tokens that are decoded for one response; best-of-n decodes n responses."""
    return int(control["decoding"]["max_new_tokens"]) * int(control.get("n") or 1)


def attempts(job: PlannedJob, facts: Facts) -> int:
    """Return the attempts per prompt of the attack that the path of the completions names."""
    completions = next((name for name in job.inputs if name.startswith("results/completions/")), None)
    attack = facts.plan.config["attacks"].get(completions.split("/")[4]) if completions else None
    return int(attack.attempts) if attack else 1


_DECODED_IN_ONE = 20  # tokens of a forward pass that take as long as one decoded token
_RULES: dict[str, Callable[[PlannedJob, Facts], Work]] = {
    "fetch_asset": _fetch,
    "prepare_dataset": _prepare_dataset,
    "join_datasets": _prepare_dataset,
    "sample_pairs": _sample_pairs,
    "sample_chats": _sample_chats,
    "prepare_model": _prepare_model,
    "train_tiny_model": _train_tiny_model,
    "train_reward_model": _train_reward,
    "extract_activations": _extract,
    "label_rewards": _scored,
    "train_value_model": _train_value,
    "fit_direction": _fit_direction,
    "choose_strength": _choose,
    "decode": _control_decode,
    "attack": _attack_decode,
    "judge_safety": _score_safety,
    "score_reward": _scored,
    "score_references": _scored,
    "embed_prompts": _embed_prompts,
    "score_coherence": _score_coherence,
    "score_diversity": _score_diversity,
    "score_perplexity": _score_tokens,
    "score_chats": _score_tokens,
    "score_repetition": _score_repetition,
    "judge_win_rate": _judge,
    "train_adapter": _train_adapter,
    "orthogonalise_weights": _orthogonalise,
    "merge_adapter": _copy_model,
    "prepare_adapter": _copy_model,
    "project_hidden_states": _project,
    "score_capability": _score_capability,
}


_ROW = 1000  # bytes of a prepared row
_LINEAR_SIDES = 22  # sum of input and output sizes of a decoder block's linear layers, in hidden sizes


def bytes_of(job: PlannedJob, facts: Facts) -> float | None:
    """Return the bytes of a job's results; None if they cannot be computed."""
    s = job.settings
    if job.rule in ("train_tiny_model", "train_reward_model"):
        place = next((name for name in job.outputs if not name.endswith(".json")), "")
        return 4 * facts.parameters("/".join(place.split("/")[1:3])) if place else None
    if job.rule == "prepare_model" and s.get("format") == "gguf":  # other checkpoints are links
        return 4 * facts.parameters("/".join(job.outputs[0].split("/")[1:3]))
    if job.rule == "merge_adapter":
        return (4 if s["dtype"] == "float32" else 2) * facts.model(job.inputs)
    if job.rule in ("prepare_dataset", "join_datasets", "sample_pairs", "sample_chats"):
        return _ROW * facts.rows(s["name"])
    if job.rule == "fetch_asset":
        return facts.asset_bytes(Path(job.outputs[0]).stem, s["where"], s["kind"])
    if job.rule == "extract_activations":
        return _states(job, facts)
    if job.rule == "train_value_model" and "hidden_size" in s["value_model"]:
        return 4 * value_parameters(s["value_model"], facts.width(job.inputs))
    if job.rule == "train_adapter":
        width = facts.width(job.inputs)
        blocks = max(1, round(facts.model(job.inputs) / (12 * width**2)))
        return 4 * s["adapter"]["lora_r"] * _LINEAR_SIDES * width * blocks
    return None


def _states(job: PlannedJob, facts: Facts) -> float:
    """Return the bytes of a shard for responses of maximal length; with streamed states, only token ids are stored."""
    block = job.settings["activations"]
    per_token = 4 if block["states"] == "streamed" else 2 * facts.width(job.inputs)
    return per_token * facts.sampled_tokens(block, job.inputs) / block["shards"]
