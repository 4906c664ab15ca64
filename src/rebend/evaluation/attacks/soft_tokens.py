"""Soft tokens: vectors in a model's input, directly after the user's text, that make a target likelier.

The loss of a prompt is the negative log-likelihood of its target given prompt and soft tokens, averaged over the
target's tokens. The prompts of a batch are independent: each has its own loss and number of steps.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rebend.config.safety import EmbeddingBlock
from rebend.errors import ConfigError, ModelError
from rebend.evaluation.attacks.frozen_weights import frozen_weights
from rebend.models.chat import Message, encode_text, prompt_text
from rebend.models.loading import Policy
from rebend.models.log_probs import token_logps

_MARK = "\ue000"  # a private-use character of Unicode: no template and hardly any text contains it


@dataclass(frozen=True)
class SoftPrompt:
    """Token ids of a prompt, before and after the soft tokens, and of the target."""

    before: list[int]
    after: list[int]
    target: list[int]


@dataclass
class Trajectory:
    """Losses and kept points of the soft tokens of one prompt."""

    losses: list[float] = field(default_factory=list)  # before each step, and at the end
    points: list[Tensor] = field(default_factory=list)  # [n_tokens, D] each, for decoding


def split_prompt(tokenizer: Any, messages: Sequence[Message], target: str) -> SoftPrompt:
    """Split a prompt directly after the text of the user's last message, located by a temporary mark.

    The two parts together are the ids of the whole prompt, unless a token spans the split.
    Raises `ModelError` if the chat template does not write the user's last text exactly once.
    """
    *earlier, last = messages
    marked = prompt_text(tokenizer, [*earlier, {**last, "content": last["content"] + _MARK}])
    if marked.count(_MARK) != 1:
        raise ModelError(
            f"the chat template writes the end of the user's last message {marked.count(_MARK)} times: "
            "the position of the soft tokens is unknown"
        )
    before, after = marked.split(_MARK)
    left, right = _split(tokenizer, before, after)
    return SoftPrompt(left, right, _split(tokenizer, before + after, target)[1])


def _split(tokenizer: Any, left: str, right: str) -> tuple[list[int], list[int]]:
    """Return the token ids of two adjacent texts, split between them."""
    first, whole = (encode_text(tokenizer, text) for text in (left, left + right))
    if whole[: len(first)] == first:
        return first, whole[len(first) :]
    return first, tokenizer(right, add_special_tokens=False)["input_ids"]


def start_tokens(policy: Policy, text: str, n_tokens: int) -> Tensor:
    """Return the embeddings `[n_tokens, D]` of the tokens of `text`, repeated or cut to `n_tokens`.

    Raises `ConfigError` if the text has no token.
    """
    ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ConfigError(f"start {text!r} has no token: soft tokens need one to start from")
    return embedded(policy, [ids[i % len(ids)] for i in range(n_tokens)])


def drawn_tokens(policy: Policy, seed: int, n_tokens: int) -> Tensor:
    """Return the embeddings `[n_tokens, D]` of random tokens of the vocabulary, without special tokens."""
    special = set(policy.tokenizer.all_special_ids)
    ordinary = [token for token in range(len(policy.tokenizer)) if token not in special]
    drawn = torch.randint(len(ordinary), (n_tokens,), generator=torch.Generator().manual_seed(seed))
    return embedded(policy, [ordinary[i] for i in drawn.tolist()])


def embedded(policy: Policy, ids: Sequence[int]) -> Tensor:
    """Return the model's input embeddings `[T, D]` of token ids."""
    with torch.no_grad():
        return policy.model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long, device=policy.device))


def with_soft_tokens(policy: Policy, prompt: SoftPrompt, soft: Tensor) -> Tensor:
    """Return the embeddings `[T, D]` of a prompt with soft tokens `[n_tokens, D]` at the split."""
    return torch.cat([embedded(policy, prompt.before), soft.to(policy.model.dtype), embedded(policy, prompt.after)])


def optimise(policy: Policy, prompts: Sequence[SoftPrompt], starts: Tensor, attack: EmbeddingBlock) -> list[Trajectory]:
    """Optimise soft tokens from `starts` `[B, n_tokens, D]`, each prompt until its loss is at most `stop_loss`.

    A point is kept after each of `generations` equal shares of the steps. Finished prompts are not updated any more. A
    prompt with a loss or gradient that is not finite undoes its last step and stops. Soft tokens have at least float32
    precision for every dtype of the model.
    """
    batch = _PromptBatch(policy, prompts)
    soft = starts.to(torch.promote_types(starts.dtype, torch.float32)).clone()
    last_finite = soft.clone()  # the soft tokens at each prompt's last finite loss
    trajectories = [Trajectory() for _ in prompts]
    active = torch.arange(len(prompts), device=policy.device)
    shares = [round(attack.steps * (i + 1) / attack.generations) for i in range(attack.generations)]
    with frozen_weights(policy.model):
        for step in range(attack.steps + 1):
            losses, gradients = batch.gradients(soft[active], active)
            for row, loss in zip(active.tolist(), losses.tolist(), strict=True):
                trajectories[row].losses.append(loss)
            finite = torch.isfinite(losses) & torch.isfinite(gradients).flatten(1).all(1)
            soft[active[~finite]] = last_finite[active[~finite]]
            if step in shares:
                _keep(trajectories, soft)
            continues = finite & (losses > attack.stop_loss)
            active, gradients = active[continues], gradients[continues]
            if step == attack.steps or not len(active):
                break
            last_finite[active] = soft[active]
            soft[active] -= attack.lr * (gradients.sign() if attack.update == "sign" else gradients)
    for _ in range(attack.generations - len(trajectories[0].points)):
        _keep(trajectories, soft)
    return trajectories


def _keep(trajectories: Sequence[Trajectory], soft: Tensor) -> None:
    for trajectory, point in zip(trajectories, soft, strict=True):
        trajectory.points.append(point.clone())


class _PromptBatch:
    """A batch of prompts; the KV cache of the parts before the soft tokens is computed once.

    The parts before the soft tokens are padded on the left, so that the soft tokens are aligned; the other parts are
    padded on the right.
    """

    def __init__(self, policy: Policy, prompts: Sequence[SoftPrompt]) -> None:
        self.model, self.body = policy.model, getattr(policy.model, policy.model.base_model_prefix)
        before = [embedded(policy, prompt.before) for prompt in prompts]
        self.mask = _padded([torch.ones(len(row), device=policy.device) for row in before], "left").long()
        self.lengths = self.mask.sum(1, keepdim=True)
        with torch.no_grad():
            self.beginning = self.body(
                inputs_embeds=_padded(before, "left"),
                attention_mask=self.mask,
                position_ids=(self.mask.cumsum(1) - 1).clamp(min=0),
                use_cache=True,
            ).past_key_values
        # A target's last token is predicted, never an input. Outputs at padded positions are not used.
        self.end = _padded([embedded(policy, [*prompt.after, *prompt.target[:-1]]) for prompt in prompts], "right")
        self.after = [len(prompt.after) for prompt in prompts]
        self.targets = [torch.tensor(prompt.target, device=policy.device) for prompt in prompts]

    def gradients(self, soft: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses `[A]` of the rows `[A]` with soft tokens `[A, n_tokens, D]`, and their gradients."""
        soft = soft.detach().requires_grad_()
        with torch.enable_grad():
            losses = self._losses(soft, rows)
            (gradients,) = torch.autograd.grad(losses.sum(), soft)
        return losses.detach(), gradients

    def _losses(self, soft: Tensor, rows: Tensor) -> Tensor:
        """Return the mean negative log-likelihood `[A]` of each target; logits only where targets are predicted."""
        n = soft.shape[1]
        inputs = torch.cat([soft.to(self.end.dtype), self.end[rows]], dim=1)
        positions = torch.arange(inputs.shape[1], device=rows.device)
        beginning = copy.deepcopy(self.beginning)  # the forward pass appends to it
        beginning.batch_select_indices(rows)
        final = self.body(
            inputs_embeds=inputs,
            attention_mask=torch.cat([self.mask[rows], self.mask.new_ones(inputs.shape[:2])], dim=1),
            position_ids=self.lengths[rows] + positions,
            past_key_values=beginning,
            use_cache=True,
        ).last_hidden_state
        first = [n + self.after[row] - 1 for row in rows.tolist()]
        targets = [self.targets[row] for row in rows.tolist()]
        states = [final[i, start : start + len(t)] for i, (start, t) in enumerate(zip(first, targets, strict=True))]
        logps = token_logps(self.model, torch.cat(states), torch.cat(targets))
        return torch.stack([-part.mean() for part in logps.split([len(target) for target in targets])])


def _padded(rows: Sequence[Tensor], side: str) -> Tensor:
    return pad_sequence(list(rows), batch_first=True, padding_side=side)
