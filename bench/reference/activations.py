"""RE-Control's activations and value training as released, written plainly: what rebend is compared with.

Written from a description of that code, none of it copied. Extraction takes the prompts in the order of the data, pads
each batch to its longest prompt, generates until its last row has ended, keeps the hidden states of every layer at
every position while it does, and puts the last layer's newest ones, padded with zeros, into a list; at the end
everything is padded to the longest response and written with one `torch.save`. Value training reads that tensor
whole, draws batches row by row through a DataLoader, sends padding through the network too, and measures the held-out
rows after each epoch with the graph for a backward pass that never comes. The objective is the released one: the
reward at the argmax of the mask, which is the first token, and gradient through both neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.data import DataLoader, TensorDataset


def extract(model: Any, tokenizer: Any, texts: Sequence[str], ends: Sequence[int], path: Path, **asked: int) -> int:
    """Write states `[N, T, D]`, mask `[N, T]` and texts, sampled at temperature 1; return how many tokens count."""
    states, masks, answers = [], [], []
    for start in range(0, len(texts), asked["batch_size"]):
        batch = tokenizer(texts[start : start + asked["batch_size"]], padding=True, add_special_tokens=False)
        given = {key: torch.tensor(batch[key]) for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            made = model.generate(
                **given,
                max_new_tokens=asked["max_new_tokens"],
                do_sample=True,
                top_k=0,
                eos_token_id=list(ends),
                pad_token_id=tokenizer.pad_token_id,
                output_hidden_states=True,
                return_dict_in_generate=True,
            )
        tokens = made.sequences[:, given["input_ids"].shape[1] :]
        states.append(torch.stack([step[-1][:, -1] for step in made.hidden_states], dim=1))
        masks.append((torch.isin(tokens, torch.tensor(list(ends))).cumsum(1) == 0).long())
        answers += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    longest = max(one.shape[1] for one in states)
    states = torch.cat([pad(one, (0, 0, 0, longest - one.shape[1])) for one in states])
    mask = torch.cat([pad(one, (0, longest - one.shape[1])) for one in masks])
    torch.save({"states": states, "mask": mask, "responses": answers}, path)
    return int(mask.sum())


class ReferenceNetwork(nn.Sequential):
    """Linear, ReLU, Linear, ReLU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )


def loss_of(network: nn.Module, states: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    """The released objective of a padded batch `[B, T, D]`: summed over tokens, averaged over responses."""
    values = network(states).squeeze(-1)
    between = ((values[:, :-1] - values[:, 1:]) * mask[:, :-1] * mask[:, 1:]) ** 2
    at_reward = values.gather(1, mask.argmax(1)[:, None]).squeeze(1)
    return (between.sum() + ((at_reward - rewards) ** 2).sum()) / len(rewards)


def train(
    network: nn.Module, path: Path, held_out: Tensor, *, lr: float, batch_size: int, epochs: int, seed: int
) -> list[float]:
    """Train on all rows but those of the mask `held_out` `[N]`; return the held-out loss after each epoch."""
    found = torch.load(path, weights_only=True)
    tensors = found["states"].float(), found["mask"], found["rewards"]
    rows = [TensorDataset(*(tensor[side] for tensor in tensors)) for side in (~held_out, held_out)]
    shuffled = torch.Generator().manual_seed(seed)
    batches = DataLoader(rows[0], batch_size, shuffle=True, generator=shuffled), DataLoader(rows[1], batch_size)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        for batch in batches[0]:
            optimizer.zero_grad()
            loss_of(network, *batch).backward()
            optimizer.step()
        total = sum(float(loss_of(network, *batch)) * len(batch[0]) for batch in batches[1])
        losses.append(total / len(rows[1]))
    return losses
