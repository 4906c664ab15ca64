"""Train a value network on hidden states and the rewards of whole responses (arXiv:2406.05954, section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy import stats

from rebend.config.value_models import ValueModelBlock
from rebend.errors import DataError
from rebend.io.checkpoints import Checkpoints
from rebend.io.files import write_parquet
from rebend.io.memory import keep_flat
from rebend.io.progress import progress
from rebend.recontrol.value_model.activation_store import Activations
from rebend.recontrol.value_model.audit import audit, write_audit
from rebend.recontrol.value_model.examples import HELD_OUT, TRAIN, ValueData
from rebend.recontrol.value_model.labels import Labels
from rebend.recontrol.value_model.loss import Labelled, masked, packed, summed_loss, values_read
from rebend.recontrol.value_model.network import Shape, ValueNetwork, new_network, save_value

METRICS_FILE = "metrics.parquet"
METRICS = pa.schema(
    [
        ("epoch", pa.int32()),  # from 1
        ("train_loss", pa.float64()),  # the objective, over the epoch's steps
        ("held_out_loss", pa.float64()),  # the objective on the held-out responses; null if none is held out
        ("held_out_error", pa.float64()),  # mean (V(s_t) − r)² over states, then responses: chooses the epoch
        ("rank_first", pa.float64()),  # Spearman correlation of V at the first token with the reward; null if undefined
        ("rank_middle", pa.float64()),
        ("rank_last", pa.float64()),
        ("rank_end", pa.float64()),  # at the state that the end token was sampled from
        ("chosen", pa.bool_()),
    ]
)
# Tokens per forward pass. On a CPU, few enough that the layers' outputs stay in its cache.
_SLICE = {"cpu": 1024, "cuda": 65536}


def train_value_model(
    source: Activations,
    labels: Labels,
    settings: ValueModelBlock,
    output: Path,
    checkpoints: Checkpoints,
    device: torch.device,
) -> dict[str, Any]:
    """Train a network; write weights, facts, metrics and audit into the folder `output`; return facts for the record.

    The weights are those of the epoch with the least held-out error, with `variant: released_code` those of the last
    epoch. Responses without a reward are left out. `useful` and `reason` are the verdict of the audit.
    Raises `DataError` if responses to fewer than two prompts are left, or if the network is no longer finite.
    """
    keep_flat()
    data = ValueData(source, labels, settings.validation_share, settings.seed)
    run = _Training(data, settings, device)
    checkpoint = checkpoints.load()
    if checkpoint:
        run.restore(checkpoint)
    with checkpoints.on_signal():
        epochs = range(run.epoch, settings.epochs)
        for _ in progress(epochs, "training the value network", total=settings.epochs, done=run.epoch):
            run.one_epoch(checkpoints)
    best = run.best_epoch()
    run.network.load_state_dict(run.best)
    audited = audit(run.network.float(), data, settings.batch_size)  # decoding has the network in float32 too
    facts = {
        "fingerprint": source.fingerprint,
        "layer": source.layer,
        "epoch": best,
        "responses": data.count(TRAIN),
        "held_out_responses": data.count(HELD_OUT),
        "useful": audited.useful,
        "reason": audited.reason,
        "end_state": audited.facts["end_state"],
    }
    save_value(output, run.network, {**facts, "settings": settings.model_dump()})
    rows = [{**row, "chosen": row["epoch"] == best} for row in run.metrics]
    write_parquet(output / METRICS_FILE, pa.Table.from_pylist(rows, METRICS))
    write_audit(output, audited)
    return {**facts, **run.metrics[best - 1], "not_scored": labels.not_scored}


def objective(network: ValueNetwork, batch: Sequence[Labelled], settings: ValueModelBlock) -> torch.Tensor:
    """Return the loss of a batch of responses: summed over the states it reads, averaged over responses."""
    states, lengths, rewards = packed(masked(batch, settings), network)
    return summed_loss(network(states), lengths, rewards, settings) / len(batch)


def slices(batch: Sequence[Labelled], tokens: int) -> Iterator[Sequence[Labelled]]:
    """Cut a batch into slices of whole responses with at most `tokens` states, or one longer response."""
    start, n = 0, 0
    for end, row in enumerate(batch):
        if n and n + len(row.states) > tokens:
            yield batch[start:end]
            start, n = end, 0
        n += len(row.states)
    if n:
        yield batch[start:]


class _Training:
    """A training run: its state, and the steps that change it."""

    def __init__(self, data: ValueData, settings: ValueModelBlock, device: torch.device) -> None:
        self.data, self.settings = data, settings
        self.slice = _SLICE.get(device.type, _SLICE["cuda"])
        shape = Shape(data.source.hidden_size, settings.hidden_size, settings.n_layers)
        self.network = new_network(shape, settings.seed).to(device, getattr(torch, settings.dtype))
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.lr)
        self.epoch, self.step, self.loss_sum = 0, 0, 0.0
        self.metrics: list[dict[str, Any]] = []
        self.best: dict[str, torch.Tensor] = {}

    def one_epoch(self, checkpoints: Checkpoints) -> None:
        """Take the epoch's remaining steps, measure on the held-out responses, and keep the best weights."""
        rng = np.random.default_rng([self.settings.seed, self.epoch])
        for number, batch in enumerate(self.data.batches(TRAIN, self.settings.batch_size, rng)):
            if number < self.step:
                continue  # taken before the run was interrupted
            self.loss_sum += self.one_step(batch) * len(batch)
            self.step = number + 1
            checkpoints.after_step(self.state)
        row = {"epoch": self.epoch + 1, "train_loss": self.loss_sum / self.data.count(TRAIN), **self.measure()}
        self.metrics.append(row)
        if self.best_epoch() == row["epoch"]:
            self.best = {name: weight.detach().cpu().clone() for name, weight in self.network.state_dict().items()}
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        checkpoints.after_step(self.state)

    def one_step(self, batch: Sequence[Labelled]) -> float:
        """Take one optimiser step; return the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in slices(batch, self.slice):
            loss = objective(self.network, part, self.settings) * (len(part) / len(batch))
            loss.backward()
            total += float(loss.detach())
        self.optimizer.step()
        return total

    def best_epoch(self) -> int:
        """Return the epoch with the least held-out error; with `variant: released_code`, the last one.

        For small λ the loss of a network with equal values at all tokens is low, so the loss cannot choose. The error
        is least for the expected reward at every token, for every λ. Raises `DataError` if an error is not finite.
        """
        measure = "held_out_error" if self.data.count(HELD_OUT) else "train_loss"
        if not all(np.isfinite(row[measure]) for row in self.metrics):
            raise DataError(
                f"the value network is no longer finite at epoch {len(self.metrics)}; lower `lr` ({self.settings.lr})"
            )
        if self.settings.variant == "released_code":
            return len(self.metrics)
        return int(min(self.metrics, key=lambda row: row["held_out_error"])["epoch"])

    @torch.no_grad()
    def measure(self) -> dict[str, float | None]:
        """Return loss, error and rank correlations on the held-out responses; None if none is held out."""
        if not self.data.count(HELD_OUT):
            return dict.fromkeys(name for name in METRICS.names if name.startswith(("held_out", "rank")))
        loss, error = 0.0, 0.0
        points: list[np.ndarray] = []
        for batch in self.data.batches(HELD_OUT, self.settings.batch_size):
            for part in slices(batch, self.slice):
                states, lengths, rewards = packed(part, self.network)
                values = self.network(states)
                points.append(_points(values, lengths, part))
                values, lengths = values_read(values, lengths, part, self.settings)
                loss += float(summed_loss(values, lengths, rewards, self.settings))
                squares = (values - rewards.repeat_interleave(lengths)).square().float()
                response = torch.arange(len(part), device=values.device).repeat_interleave(lengths)
                sums = torch.zeros(len(part), device=values.device).index_add_(0, response, squares)
                error += float((sums / lengths).sum())
        columns = np.concatenate(points).T
        names = ("rank_first", "rank_middle", "rank_last", "rank_end")
        return {
            "held_out_loss": loss / columns.shape[1],
            "held_out_error": error / columns.shape[1],
            **{name: _rank_correlation(column, columns[4]) for name, column in zip(names, columns, strict=False)},
        }

    def state(self) -> dict[str, Any]:
        """Return the state of a checkpoint; a run resumed from it writes the same bytes."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "metrics": self.metrics,
            "best": self.best,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set the state of a checkpoint."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step, self.loss_sum = state["epoch"], state["step"], state["loss_sum"]
        self.metrics, self.best = state["metrics"], state["best"]


def _points(values: torch.Tensor, lengths: torch.Tensor, part: Sequence[Labelled]) -> np.ndarray:
    """Return V at first, middle and last token and at the end token's state, and the reward [B, 5]; NaN for none."""
    tokens = torch.tensor([row.n_tokens for row in part], device=values.device)
    first = lengths.cumsum(0) - lengths
    places = [first, first + tokens // 2, first + tokens - 1, first + tokens]
    known = [tokens > 0, tokens > 0, tokens > 0, lengths > tokens]
    last = len(values) - 1
    columns = [torch.where(k, values[p.clamp(0, last)].float(), torch.nan) for p, k in zip(places, known, strict=True)]
    rewards = np.array([row.reward for row in part])
    return np.column_stack([torch.stack(columns, 1).cpu().numpy(), rewards])


def _rank_correlation(values: np.ndarray, rewards: np.ndarray) -> float | None:
    """Return Spearman's rank correlation where V is known (not NaN); None if one side is constant or not finite."""
    values, rewards = values[~np.isnan(values)], rewards[~np.isnan(values)]
    if len(values) < 2 or not np.isfinite(values).all() or np.ptp(values) == 0 or np.ptp(rewards) == 0:
        return None
    return float(stats.spearmanr(values, rewards).statistic)
