"""Input-embedding attack: soft tokens after the request, optimised until a target becomes likely, then an answer.

The attacker may put any vectors into the model's input (arXiv:2402.09063). As published with RepBend they move
by plain gradient descent (`update: sgd`). The stronger variant (arXiv:2407.15902) steps by the signs of the
gradient, starts elsewhere, and answers from several points on the way, because soft tokens that are driven
too far often give the target and then nonsense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any

import torch

from rebend.config.decoding import Decoding
from rebend.config.safety import EmbeddingBlock
from rebend.evaluation.attacks.attempts import Row, Tries, aim, attempt_key
from rebend.evaluation.attacks.soft_tokens import (
    Place,
    cut_prompt,
    drawn_tokens,
    optimise,
    start_tokens,
    with_soft_tokens,
)
from rebend.generation.generate import Request, Response, generate_batch, room
from rebend.generation.intervention import Control
from rebend.generation.sampling import row_seed
from rebend.io.chunks import ChunkStore
from rebend.io.progress import progress
from rebend.models.batching import batches_by_length
from rebend.models.loading import Policy

Made = dict[str, Any]  # what one try on one prompt gave, as plain values: `responses`, `losses`


@dataclass(frozen=True)
class _Attack:
    """All that stays the same from prompt to prompt."""

    policy: Policy
    settings: EmbeddingBlock
    decoding: Decoding
    control: Control

    def on_batch(self, rows: Sequence[Row], places: Sequence[Place], number: int) -> list[Made]:
        """Optimise try `number` on a batch of prompts, and answer from each of its points."""
        starts = torch.stack([self._start(row, number) for row in rows])
        paths = optimise(self.policy, places, starts, self.settings)
        made: list[Made] = [{"losses": path.losses, "responses": []} for path in paths]
        for point in range(self.settings.generations):
            requests = [
                Request(
                    attempt_key(row, number * self.settings.generations + point),
                    prompt_ids=[],
                    embeddings=with_soft_tokens(self.policy, place, path.points[point]),
                    messages=row["messages"],
                )
                for row, place, path in zip(rows, places, paths, strict=True)
            ]
            answers = generate_batch(self.policy, requests, self.decoding, control=self.control)
            for one, answer in zip(made, answers, strict=True):
                one["responses"].append(vars(answer))
        return made

    def _start(self, row: Row, number: int) -> torch.Tensor:
        """Soft tokens `[n_tokens, D]` that try `number` on a prompt starts from."""
        if number == 0:
            return start_tokens(self.policy, self.settings.start, self.settings.n_tokens)
        seed = row_seed(self.settings.seed, f"{row['row_id']}/start/{number}")
        return drawn_tokens(self.policy, seed, self.settings.n_tokens)


def embedding_completions(
    policy: Policy,
    rows: Sequence[Row],
    settings: EmbeddingBlock,
    decoding: Decoding,
    control: Control,
    parts: ChunkStore,
) -> tuple[Tries, dict[str, Any]]:
    """Return `attempts` times `generations` responses per prompt, and what the record says of the losses.

    Attempt t·generations + g is the answer from point g of try t. Try 0 starts from the text `start`, a later
    one from tokens drawn from the vocabulary with a seed of its own. Finished batches are kept in `parts`.
    """
    attack = _Attack(policy, settings, decoding, control)
    places = [
        cut_prompt(policy.tokenizer, control.messages(row["messages"]), aim(row, settings.target)) for row in rows
    ]
    lengths = [len(place.before) + settings.n_tokens + len(place.after) for place in places]
    fitting = [
        i
        for i, place in enumerate(places)
        if lengths[i] + max(len(place.target), decoding.max_new_tokens) <= room(policy)
    ]
    batches = batches_by_length([lengths[i] for i in fitting], settings.batch_size)
    jobs = [(t, n, [fitting[i] for i in batch]) for t in range(settings.attempts) for n, batch in enumerate(batches)]
    found: Tries = [[None] * (settings.attempts * settings.generations) for _ in rows]
    losses: list[list[float]] = []
    for number, n, chosen in progress(jobs, "attacking", total=len(jobs)):

        def make(number: int = number, chosen: list[int] = chosen) -> list[Made]:
            return attack.on_batch([rows[i] for i in chosen], [places[i] for i in chosen], number)

        for row, made in zip(chosen, parts.get_or_make(f"try-{number:03d}-batch-{n:05d}", make), strict=True):
            first = number * settings.generations
            found[row][first : first + settings.generations] = [Response(**answer) for answer in made["responses"]]
            losses.append(made["losses"])
    return found, _of_losses(losses, settings)


def _of_losses(losses: Sequence[Sequence[float]], settings: EmbeddingBlock) -> dict[str, Any]:
    """Say how the losses of all tries went; tries whose loss was not finite are counted, and in no mean."""
    ended = [path for path in losses if isfinite(path[-1])]
    if not ended:
        return {"losses_not_finite": len(losses)}
    return {
        "losses_not_finite": len(losses) - len(ended),
        "loss_at_start": fmean(path[0] for path in ended),
        "loss_at_end": fmean(path[-1] for path in ended),
        "reached_stop_loss": sum(path[-1] <= settings.stop_loss for path in ended),
        "mean_steps": fmean(len(path) - 1 for path in ended),
    }
