"""A plain version of RE-Control's released extraction and value training, for comparison with rebend.

Written from a description of that code, without copying it. Extraction takes the prompts in the order of the data, pads
each batch to its longest prompt, generates until all rows have ended, and keeps the hidden states of all layers at all
positions meanwhile. It adds the last layer's states, padded with zeros, to a list, pads all to the longest response
and writes it with one `torch.save`. Value training reads the whole tensor, draws batches row by row through a
DataLoader, computes padding too, and computes the held-out loss after each epoch with an autograd graph that it does
not use. The objective is the released one: the reward at the argmax of the mask, which is the first token, and gradient
through both neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.data import DataLoader, TensorDataset


def extract(model: Any, tokenizer: Any, texts: Sequence[str], ends: Sequence[int], path: Path, **options: int) -> int:
    """Write states `[N, T, D]`, mask `[N, T]` and texts (temperature 1); return the number of response tokens."""
    states, masks, answers = [], [], []
    for start in range(0, len(texts), options["batch_size"]):
        batch = tokenizer(texts[start : start + options["batch_size"]], padding=True, add_special_tokens=False)
        inputs = {key: torch.tensor(batch[key]) for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            output = model.generate(
                **inputs,
                max_new_tokens=options["max_new_tokens"],
                do_sample=True,
                top_k=0,
                eos_token_id=list(ends),
                pad_token_id=tokenizer.pad_token_id,
                output_hidden_states=True,
                return_dict_in_generate=True,
            )
        tokens = output.sequences[:, inputs["input_ids"].shape[1] :]
        states.append(torch.stack([step[-1][:, -1] for step in output.hidden_states], dim=1))
        masks.append((torch.isin(tokens, torch.tensor(list(ends))).cumsum(1) == 0).long())
        answers += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    longest = max(part.shape[1] for part in states)
    states = torch.cat([pad(part, (0, 0, 0, longest - part.shape[1])) for part in states])
    mask = torch.cat([pad(part, (0, longest - part.shape[1])) for part in masks])
    torch.save({"states": states, "mask": mask, "responses": answers}, path)
    return int(mask.sum())


class ReferenceNetwork(nn.Sequential):
    """Three linear layers with ReLU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )


def loss_of(network: nn.Module, states: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    """Return the released objective of a padded batch `[B, T, D]`: a sum over tokens, a mean over responses."""
    values = network(states).squeeze(-1)
    between = ((values[:, :-1] - values[:, 1:]) * mask[:, :-1] * mask[:, 1:]) ** 2
    at_reward = values.gather(1, mask.argmax(1)[:, None]).squeeze(1)
    return (between.sum() + ((at_reward - rewards) ** 2).sum()) / len(rewards)


def train(
    network: nn.Module, path: Path, held_out: Tensor, *, lr: float, batch_size: int, epochs: int, seed: int
) -> list[float]:
    """Train on all rows but those of the mask `held_out` `[N]`; return the held-out loss after each epoch."""
    data = torch.load(path, weights_only=True)
    tensors = data["states"].float(), data["mask"], data["rewards"]
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
