"""How many bytes a job leaves on the disk, where arithmetic tells: weights, hidden states, downloads."""

from __future__ import annotations

from pathlib import Path

from rebend.budget_facts import Facts
from rebend.budget_work import PlannedJob, value_parameters

_ROW = 1000  # bytes of a prepared row
_LINEAR_SIDES = 22  # in and out widths of a decoder block's linear layers, in hidden sizes


def bytes_of(job: PlannedJob, facts: Facts) -> float | None:
    """Return the bytes of a job's results; None where only earlier jobs can tell."""
    s = job.settings
    if job.rule in ("train_tiny_model", "train_tiny_reward"):
        place = next((name for name in job.outputs if not name.endswith(".json")), "")
        return 4 * facts.parameters("/".join(place.split("/")[1:3])) if place else None
    if job.rule == "merge_bend":
        return (4 if s["dtype"] == "float32" else 2) * facts.model(job.inputs)
    if job.rule == "prepare_dataset":
        return _ROW * facts.rows(s["name"])
    if job.rule == "fetch_asset":
        return facts.asset_bytes(Path(job.outputs[0]).stem, s["where"], s["kind"])
    if job.rule == "extract_activations":
        return _states(job, facts)
    if job.rule == "train_value" and "hidden_size" in s["value"]:
        return 4 * value_parameters(s["value"], facts.width(job.inputs))
    if job.rule == "train_bend":
        width = facts.width(job.inputs)
        blocks = max(1, round(facts.model(job.inputs) / (12 * width**2)))
        return 4 * s["bend"]["lora_r"] * _LINEAR_SIDES * width * blocks
    return None


def _states(job: PlannedJob, facts: Facts) -> float:
    """Two bytes a number, if every response becomes as long as it may; token ids alone where states are streamed."""
    block = job.settings["activations"]
    per_token = 4 if block["states"] == "streamed" else 2 * facts.width(job.inputs)
    return per_token * facts.sampled_tokens(block, job.inputs) / block["shards"]
