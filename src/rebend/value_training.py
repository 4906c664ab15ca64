"""Fit a value network to rewards of whole responses (arXiv:2406.05954, section 4).

Per response with states s_1 … s_T and reward r:

    loss = Σ_{t<T} (V(s_t) − G_{t+1})² + (V(s_T) − r)²      summed over tokens, averaged over responses

G_{t+1} = (1 − λ)·V(s_{t+1}) + λ·G_{t+2}, G_{T+1} = r, always without gradient. λ = 0 is the paper's
objective, in which the reward reaches earlier tokens through V only; λ = 1 fits the reward at every token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy import stats

from rebend.checkpoints import Checkpoints
from rebend.config.blocks import ValueBlock
from rebend.errors import DataError
from rebend.progress import progress
from rebend.shards import Activations
from rebend.storage import write_parquet
from rebend.values import Shape, ValueNetwork, new_network, save_value

METRICS_FILE = "metrics.parquet"
METRICS = pa.schema(
    [
        ("epoch", pa.int32()),  # from 1
        ("train_loss", pa.float64()),  # the objective, over the epoch's steps
        ("held_out_loss", pa.float64()),  # the same quantity on the held-out responses
        ("held_out_error", pa.float64()),  # mean (V(s_t) − r)² over tokens, then responses: chooses the epoch
        ("rank_first", pa.float64()),  # Spearman correlation of V at that token with the reward; null if undefined
        ("rank_middle", pa.float64()),
        ("rank_last", pa.float64()),
        ("chosen", pa.bool_()),
    ]
)
_POOL = 2  # batches that are mixed before one is drawn

Labelled = tuple[torch.Tensor, float]  # the states [T, D] of a response, and its reward


def train_value(
    data: Activations,
    rewards: Mapping[str, float],
    settings: ValueBlock,
    output: Path,
    checkpoints: Checkpoints,
    device: torch.device,
) -> dict[str, Any]:
    """Train, keep the best epoch, and write weights, facts and metrics into the folder `output`.

    `rewards` maps response ids to rewards; responses without one, or without a token, are left out.
    """
    train, held_out = split_by_prompt(data.responses(), rewards, settings.validation_share, settings.seed)
    run = _Training(data, rewards, settings, train, held_out, device)
    saved = checkpoints.load()
    if saved:
        run.restore(saved)
    with checkpoints.on_signal():
        left = range(run.epoch, settings.epochs)
        for _ in progress(left, "training the value network", total=settings.epochs, done=run.epoch):
            run.one_epoch(checkpoints)
    best = run.best_epoch()
    run.network.load_state_dict(run.best)
    facts = {
        "fingerprint": data.fingerprint,
        "layer": data.manifest["layer"],
        "settings": settings.model_dump(),
        "epoch": best,
        "responses": len(train),
        "held_out_responses": len(held_out),
    }
    save_value(output, run.network, facts)
    rows = [{**row, "chosen": row["epoch"] == best} for row in run.metrics]
    write_parquet(output / METRICS_FILE, pa.Table.from_pylist(rows, METRICS))
    return {**{k: v for k, v in facts.items() if k != "settings"}, **run.metrics[best - 1]}


def split_by_prompt(
    responses: pa.Table, rewards: Mapping[str, float], share: float, seed: int
) -> tuple[list[str], list[str]]:
    """Return response ids for training and held out; all responses to one prompt are on the same side."""
    usable = [
        (row["row_id"], row["response_id"])
        for row in responses.select(["row_id", "response_id", "n_tokens"]).to_pylist()
        if row["n_tokens"] and row["response_id"] in rewards
    ]
    prompts = sorted({prompt for prompt, _ in usable}, key=lambda p: hashlib.sha256(f"{seed}/{p}".encode()).digest())
    if len(prompts) < 2:
        raise DataError(f"responses to {len(prompts)} prompts have a token and a reward; at least 2 are needed")
    n_held = min(len(prompts) - 1, max(1, round(share * len(prompts))))
    held = set(prompts[:n_held])
    train = [response for prompt, response in usable if prompt not in held]
    return train, [response for prompt, response in usable if prompt in held]


def returns(values: torch.Tensor, lengths: torch.Tensor, rewards: torch.Tensor, trace: float) -> torch.Tensor:
    """Return the targets [N] of packed values [N]: responses of `lengths` [B] tokens with `rewards` [B].

    No gradient goes through them. The target of the last token of each response is its reward.
    """
    values = values.detach()
    targets = torch.empty_like(values)
    last = lengths.cumsum(0) - 1
    target = rewards
    for back in range(int(lengths.max())):  # all responses at once, from their ends to their beginnings
        inside = back < lengths
        at = (last - back)[inside]
        targets[at] = target[inside]
        target = target.clone()
        target[inside] = (1 - trace) * values[at] + trace * target[inside]
    return targets


def objective(network: ValueNetwork, batch: Sequence[Labelled], trace: float, device: torch.device) -> torch.Tensor:
    """Return the loss of a batch of responses: summed over tokens, averaged over responses."""
    states, lengths, rewards = packed(batch, device)
    values = network(states)
    targets = returns(values, lengths, rewards, trace)
    return (values - targets).square().sum() / len(batch)


def packed(batch: Sequence[Labelled], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Join responses without padding: states [N, D] in float32, lengths [B], rewards [B]."""
    states = torch.cat([states for states, _ in batch]).to(device).float()
    lengths = torch.tensor([len(states) for states, _ in batch], device=device)
    return states, lengths, torch.tensor([reward for _, reward in batch], device=device)


class _Training:
    """The state of a training run, and what one epoch does to it."""

    def __init__(
        self,
        data: Activations,
        rewards: Mapping[str, float],
        settings: ValueBlock,
        train: Sequence[str],
        held_out: Sequence[str],
        device: torch.device,
    ) -> None:
        self.data, self.rewards, self.settings, self.device = data, rewards, settings, device
        self.train, self.held_out = frozenset(train), frozenset(held_out)
        shape = Shape(data.hidden_size, settings.hidden_size, settings.n_layers)
        self.network = new_network(shape, settings.seed).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.lr)
        self.epoch, self.step, self.loss_sum = 0, 0, 0.0
        self.metrics: list[dict[str, Any]] = []
        self.best: dict[str, torch.Tensor] = {}

    def one_epoch(self, checkpoints: Checkpoints) -> None:
        """Take the epoch's steps that are left, measure on the held-out responses, keep the best weights."""
        for number, batch in enumerate(self.batches(self.train, shuffle=True)):
            if number < self.step:
                continue  # taken before the run was interrupted
            loss = objective(self.network, batch, self.settings.trace, self.device)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.step, self.loss_sum = number + 1, self.loss_sum + float(loss.detach()) * len(batch)
            checkpoints.after_step(self.state)
        row = {"epoch": self.epoch + 1, "train_loss": self.loss_sum / len(self.train), **self.measure()}
        self.metrics.append(row)
        if self.best_epoch() == row["epoch"]:
            self.best = {name: weight.detach().cpu().clone() for name, weight in self.network.state_dict().items()}
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        checkpoints.after_step(self.state)

    def best_epoch(self) -> int:
        """Return the epoch with the least held-out error.

        Not the loss: for small λ that is low for a network that says the same at every token. The error
        is least for the expected reward at every token, whatever λ is.
        """
        if not all(np.isfinite(row["held_out_error"]) for row in self.metrics):
            raise DataError(
                f"the value network is no longer finite at epoch {len(self.metrics)}; lower `lr` ({self.settings.lr})"
            )
        return int(min(self.metrics, key=lambda row: row["held_out_error"])["epoch"])

    @torch.no_grad()
    def measure(self) -> dict[str, float | None]:
        """Return loss, error and rank correlations on the held-out responses."""
        loss, error = 0.0, 0.0
        points: list[tuple[float, float, float, float]] = []
        for batch in self.batches(self.held_out, shuffle=False):
            states, lengths, rewards = packed(batch, self.device)
            values = self.network(states)
            targets = returns(values, lengths, rewards, self.settings.trace)
            loss += float((values - targets).square().sum())
            for line, (_, reward) in zip(values.split(lengths.tolist()), batch, strict=True):
                error += float((line - reward).square().mean())
                points.append((float(line[0]), float(line[len(line) // 2]), float(line[-1]), reward))
        first, middle, last, reward = np.array(points).T
        return {
            "held_out_loss": loss / len(points),
            "held_out_error": error / len(points),
            "rank_first": _rank_correlation(first, reward),
            "rank_middle": _rank_correlation(middle, reward),
            "rank_last": _rank_correlation(last, reward),
        }

    def batches(self, wanted: frozenset[str], *, shuffle: bool) -> Iterator[list[Labelled]]:
        """Stream batches of responses from disk; only a few batches are in memory.

        Shuffled in two stages, by (seed, epoch): the order of the row groups, then a pool of a few batches.
        """
        rng = np.random.default_rng([self.settings.seed, self.epoch])
        size = self.settings.batch_size
        keys = self.data.groups()
        pool: list[Labelled] = []
        for at in rng.permutation(len(keys)) if shuffle else range(len(keys)):
            group = self.data.read(keys[at])
            pool += [(states, self.rewards[name]) for name, states in group.responses() if name in wanted]
            while len(pool) >= _POOL * size:
                batch, pool = _draw(pool, size, rng if shuffle else None)
                yield batch
        while pool:
            batch, pool = _draw(pool, size, rng if shuffle else None)
            yield batch

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs to end in the same bytes."""
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
        """Go on from a saved state."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step, self.loss_sum = state["epoch"], state["step"], state["loss_sum"]
        self.metrics, self.best = state["metrics"], state["best"]


def _draw(pool: list[Labelled], size: int, rng: np.random.Generator | None) -> tuple[list[Labelled], list[Labelled]]:
    """Take a batch of `size` from the pool, at random if `rng` is given; return it and what is left."""
    order = rng.permutation(len(pool)) if rng is not None else np.arange(len(pool))
    return [pool[i] for i in order[:size]], [pool[i] for i in order[size:]]


def _rank_correlation(values: np.ndarray, rewards: np.ndarray) -> float | None:
    """Spearman's rank correlation; None where one side is constant."""
    if len(values) < 2 or np.ptp(values) == 0 or np.ptp(rewards) == 0:
        return None
    return float(stats.spearmanr(values, rewards).statistic)
