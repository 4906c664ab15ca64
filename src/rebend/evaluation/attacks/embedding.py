"""Input-embedding attack: optimise soft tokens after the request until a target becomes likely, then decode.

The attacker may put any vectors into the model's input (arXiv:2402.09063). As in RepBend's released code, the vectors
are updated by plain gradient descent (`update: sgd`); its targets end with a suffix and its contextual behaviours lack
their context (`variant: released_code`). The stronger variant (arXiv:2407.15902) uses the sign of the
gradient and other starts, and decodes after several shares of the steps, because soft tokens after too many steps often
produce the target followed by nonsense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any

import torch

from rebend.config.safety import EmbeddingBlock
from rebend.evaluation.attacks.attempts import (
    AttackResult,
    AttackSetup,
    Attempts,
    PromptRow,
    attempt_key,
    harmful_rows,
    target_of,
    without_context,
)
from rebend.evaluation.attacks.soft_tokens import (
    SoftPrompt,
    drawn_tokens,
    optimise,
    split_prompt,
    start_tokens,
    with_soft_tokens,
)
from rebend.generation.fixed_batches import generate_batch
from rebend.generation.requests import Request, Response
from rebend.generation.sampling import row_seed
from rebend.io.progress import progress
from rebend.models.batching import batches_by_length

RELEASED_SUFFIX = ":\n\n"  # after each target in RepBend's released evaluation
Outcome = dict[str, Any]  # plain values for one start of one prompt: `responses`, `losses`


def attack(rows: Sequence[PromptRow], settings: EmbeddingBlock, setup: AttackSetup) -> AttackResult:
    """Return `attempts` times `generations` responses per harmful prompt, and a summary of the losses.

    The column `attempt` is t * generations + g for the response after share g of the steps of start t. Start 0 is the
    text `start`; later starts are random tokens of the vocabulary, each with another seed. Finished batches are kept.
    """
    rows, suffix = harmful_rows(rows), ""
    if settings.variant == "released_code":
        rows, suffix = [{**row, "messages": without_context(row)} for row in rows], RELEASED_SUFFIX
    run = _Attack(settings, setup)
    prompts = [
        split_prompt(
            setup.policy.tokenizer, setup.control.messages(row["messages"]), target_of(row, settings.target) + suffix
        )
        for row in rows
    ]
    attempts: Attempts = [[None] * (settings.attempts * settings.generations) for _ in rows]
    losses: list[list[float]] = []
    jobs = run.jobs(prompts)
    for start, n, chosen in progress(jobs, "attacking", total=len(jobs)):

        def make(start: int = start, chosen: list[int] = chosen) -> list[Outcome]:
            return run.on_batch([rows[i] for i in chosen], [prompts[i] for i in chosen], start)

        outcomes = setup.parts.get_or_make(f"attempt-{start:03d}-batch-{n:05d}", make)
        for row, outcome in zip(chosen, outcomes, strict=True):
            first = start * settings.generations
            responses = [Response(**response) for response in outcome["responses"]]
            attempts[row][first : first + settings.generations] = responses
            losses.append(outcome["losses"])
    return AttackResult(rows, attempts, [""] * len(rows), _loss_summary(losses, settings))


@dataclass(frozen=True)
class _Attack:
    """Settings and setup, the same for all prompts."""

    settings: EmbeddingBlock
    setup: AttackSetup

    def jobs(self, prompts: Sequence[SoftPrompt]) -> list[tuple[int, int, list[int]]]:
        """Return (start, batch number, indices of prompts) for all prompts that fit the model's context."""
        limit, new_tokens = self.setup.policy.context, self.setup.decoding.max_new_tokens
        lengths = [len(prompt.before) + self.settings.n_tokens + len(prompt.after) for prompt in prompts]
        fitting = [i for i, prompt in enumerate(prompts) if lengths[i] + max(len(prompt.target), new_tokens) <= limit]
        batches = batches_by_length([lengths[i] for i in fitting], self.settings.batch_size)
        return [
            (start, n, [fitting[i] for i in batch])
            for start in range(self.settings.attempts)
            for n, batch in enumerate(batches)
        ]

    def on_batch(self, rows: Sequence[PromptRow], prompts: Sequence[SoftPrompt], start: int) -> list[Outcome]:
        """Optimise soft tokens for a batch of prompts, and decode a response from each kept point."""
        policy = self.setup.policy
        starts = torch.stack([self._start(row, start) for row in rows])
        trajectories = optimise(policy, prompts, starts, self.settings)
        outcomes: list[Outcome] = [{"losses": trajectory.losses, "responses": []} for trajectory in trajectories]
        for point in range(self.settings.generations):
            requests = [
                Request(
                    attempt_key(row, start * self.settings.generations + point),
                    prompt_ids=[],
                    embeddings=with_soft_tokens(policy, prompt, trajectory.points[point]),
                    messages=row["messages"],
                )
                for row, prompt, trajectory in zip(rows, prompts, trajectories, strict=True)
            ]
            responses = generate_batch(policy, requests, self.setup.decoding, control=self.setup.control)
            for outcome, response in zip(outcomes, responses, strict=True):
                outcome["responses"].append(vars(response))
        return outcomes

    def _start(self, row: PromptRow, start: int) -> torch.Tensor:
        """Return the initial soft tokens `[n_tokens, D]` of start number `start` of a prompt."""
        if start == 0:
            return start_tokens(self.setup.policy, self.settings.start, self.settings.n_tokens)
        seed = row_seed(self.settings.seed, f"{row['row_id']}/start/{start}")
        return drawn_tokens(self.setup.policy, seed, self.settings.n_tokens)


def _loss_summary(losses: Sequence[Sequence[float]], settings: EmbeddingBlock) -> dict[str, Any]:
    """Return means of the losses; attempts with a last loss that is not finite are counted and left out."""
    finite = [trajectory for trajectory in losses if isfinite(trajectory[-1])]
    if not finite:
        return {"losses_not_finite": len(losses)}
    return {
        "losses_not_finite": len(losses) - len(finite),
        "loss_at_start": fmean(trajectory[0] for trajectory in finite),
        "loss_at_end": fmean(trajectory[-1] for trajectory in finite),
        "reached_stop_loss": sum(trajectory[-1] <= settings.stop_loss for trajectory in finite),
        "mean_steps": fmean(len(trajectory) - 1 for trajectory in finite),
    }
