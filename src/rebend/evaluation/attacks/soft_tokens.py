"""Soft tokens: vectors in a model's input, directly after the user's text, that make a target likelier.

The loss of a prompt is the negative log-likelihood of its target given prompt and soft tokens, the mean over
the target's tokens. Prompts of a batch do not see each other: each has its own loss, steps and end.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rebend.config.safety import EmbeddingBlock
from rebend.errors import ConfigError, ModelError
from rebend.models.chat import Message, prompt_text
from rebend.models.loading import Policy
from rebend.models.log_probs import token_logps

_MARK = "\ue000"  # of Unicode's private use: no template and hardly any text has it


@dataclass(frozen=True)
class Place:
    """Token ids of a prompt, cut where soft tokens go, and of the text that they shall make likely."""

    before: list[int]
    after: list[int]
    target: list[int]


@dataclass
class Path:
    """How the soft tokens of one prompt moved."""

    losses: list[float] = field(default_factory=list)  # before each step, and at the end
    points: list[Tensor] = field(default_factory=list)  # [n_tokens, D] each: where they are answered from


def cut_prompt(tokenizer: Any, messages: Sequence[Message], target: str) -> Place:
    """Return the place directly after the text of the user's last message, found with a mark put there.

    Without soft tokens the ids are those of the prompt as it is, unless a token reaches over the cut.
    Raises `ModelError` for a chat template that does not write the user's last text out exactly once.
    """
    *earlier, last = messages
    marked = prompt_text(tokenizer, [*earlier, {**last, "content": last["content"] + _MARK}])
    if marked.count(_MARK) != 1:
        raise ModelError(
            f"the chat template writes the end of the user's last message {marked.count(_MARK)} times: "
            "where soft tokens belong cannot be told"
        )
    before, after = marked.split(_MARK)
    left, right = _split(tokenizer, before, after)
    return Place(left, right, _split(tokenizer, before + after, target)[1])


def _split(tokenizer: Any, left: str, right: str) -> tuple[list[int], list[int]]:
    """Token ids of two texts that stand together, cut between them."""
    first, whole = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (left, left + right))
    if whole[: len(first)] == first:
        return first, whole[len(first) :]
    return first, tokenizer(right, add_special_tokens=False)["input_ids"]


def start_tokens(policy: Policy, text: str, n_tokens: int) -> Tensor:
    """Return the embeddings `[n_tokens, D]` of the tokens of `text`, repeated as often as needed."""
    ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ConfigError(f"start {text!r} has no token: soft tokens need one to start from")
    return embedded(policy, [ids[i % len(ids)] for i in range(n_tokens)])


def drawn_tokens(policy: Policy, seed: int, n_tokens: int) -> Tensor:
    """Return the embeddings `[n_tokens, D]` of tokens drawn from the vocabulary, special ones left out."""
    special = set(policy.tokenizer.all_special_ids)
    ordinary = [token for token in range(len(policy.tokenizer)) if token not in special]
    drawn = torch.randint(len(ordinary), (n_tokens,), generator=torch.Generator().manual_seed(seed))
    return embedded(policy, [ordinary[i] for i in drawn.tolist()])


def embedded(policy: Policy, ids: Sequence[int]) -> Tensor:
    """Return the model's input embeddings `[T, D]` of token ids."""
    with torch.no_grad():
        return policy.model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long, device=policy.device))


def with_soft_tokens(policy: Policy, place: Place, soft: Tensor) -> Tensor:
    """Return the embeddings `[T, D]` of a prompt with soft tokens `[n_tokens, D]` in their place."""
    return torch.cat([embedded(policy, place.before), soft.to(policy.model.dtype), embedded(policy, place.after)])


def optimise(policy: Policy, places: Sequence[Place], starts: Tensor, attack: EmbeddingBlock) -> list[Path]:
    """Move soft tokens from `starts` `[B, n_tokens, D]`, each prompt until its loss is at most `stop_loss`.

    A point is kept after each of `generations` equal shares of the steps. Prompts that are done stay where they
    are; one whose loss or slope is not finite goes back by a step and stays there. Soft tokens are at least
    float32, whatever the model is.
    """
    frame = _Frame(policy, places)
    soft = starts.to(torch.promote_types(starts.dtype, torch.float32)).clone()
    sound = soft.clone()  # where each prompt's loss was last finite
    paths = [Path() for _ in places]
    active = torch.arange(len(places), device=policy.device)
    shares = [round(attack.steps * (i + 1) / attack.generations) for i in range(attack.generations)]
    with frozen(policy.model):
        for step in range(attack.steps + 1):
            losses, slopes = frame.slopes(soft[active], active)
            for row, loss in zip(active.tolist(), losses.tolist(), strict=True):
                paths[row].losses.append(loss)
            finite = torch.isfinite(losses) & torch.isfinite(slopes).flatten(1).all(1)
            soft[active[~finite]] = sound[active[~finite]]
            if step in shares:
                _keep(paths, soft)
            goes_on = finite & (losses > attack.stop_loss)
            active, slopes = active[goes_on], slopes[goes_on]
            if step == attack.steps or not len(active):
                break
            sound[active] = soft[active]
            soft[active] -= attack.lr * (slopes.sign() if attack.update == "sign" else slopes)
    for _ in range(attack.generations - len(paths[0].points)):
        _keep(paths, soft)
    return paths


def _keep(paths: Sequence[Path], soft: Tensor) -> None:
    for path, point in zip(paths, soft, strict=True):
        path.points.append(point.clone())


class _Frame:
    """A batch of prompts around their soft tokens: what stands before them is computed once, for all steps.

    Beginnings are padded on the left, so that soft tokens stand below each other; ends on the right.
    """

    def __init__(self, policy: Policy, places: Sequence[Place]) -> None:
        self.model, self.body = policy.model, getattr(policy.model, policy.model.base_model_prefix)
        before = [embedded(policy, place.before) for place in places]
        self.mask = _padded([torch.ones(len(row), device=policy.device) for row in before], "left").long()
        self.lengths = self.mask.sum(1, keepdim=True)
        with torch.no_grad():
            self.beginning = self.body(
                inputs_embeds=_padded(before, "left"),
                attention_mask=self.mask,
                position_ids=(self.mask.cumsum(1) - 1).clamp(min=0),
                use_cache=True,
            ).past_key_values
        # A target's last token is predicted, never read. What comes after a row's own end is read by nobody.
        self.end = _padded([embedded(policy, [*place.after, *place.target[:-1]]) for place in places], "right")
        self.after = [len(place.after) for place in places]
        self.targets = [torch.tensor(place.target, device=policy.device) for place in places]

    def slopes(self, soft: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses `[A]` of the rows `[A]` with soft tokens `[A, n_tokens, D]`, and the slopes of each loss."""
        soft = soft.detach().requires_grad_()
        with torch.enable_grad():
            losses = self._losses(soft, rows)
            (slopes,) = torch.autograd.grad(losses.sum(), soft)
        return losses.detach(), slopes

    def _losses(self, soft: Tensor, rows: Tensor) -> Tensor:
        """Mean negative log-likelihood `[A]` of each target; logits are computed where targets are predicted."""
        n = soft.shape[1]
        inputs = torch.cat([soft.to(self.end.dtype), self.end[rows]], dim=1)
        places = torch.arange(inputs.shape[1], device=rows.device)
        beginning = copy.deepcopy(self.beginning)  # the pass appends to it
        beginning.batch_select_indices(rows)
        final = self.body(
            inputs_embeds=inputs,
            attention_mask=torch.cat([self.mask[rows], self.mask.new_ones(inputs.shape[:2])], dim=1),
            position_ids=self.lengths[rows] + places,
            past_key_values=beginning,
            use_cache=True,
        ).last_hidden_state
        first = [n + self.after[row] - 1 for row in rows.tolist()]
        targets = [self.targets[row] for row in rows.tolist()]
        states = [final[i, at : at + len(t)] for i, (at, t) in enumerate(zip(first, targets, strict=True))]
        logps = token_logps(self.model, torch.cat(states), torch.cat(targets))
        return torch.stack([-part.mean() for part in logps.split([len(target) for target in targets])])


def _padded(rows: Sequence[Tensor], side: str) -> Tensor:
    return pad_sequence(list(rows), batch_first=True, padding_side=side)


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Inside the block no weight of a model takes part in gradients: nothing is kept for them."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
