"""A reward model trained on preference pairs, started from a language model: LoRA or all weights, in a stated memory.

Peak memory in bytes, float32, for P weights, W trained weights, L decoder blocks of width D with an MLP of width F, and
t = 2 · micro_batch · max_length tokens in a forward pass:

    4 P + 12 W + 4 t · (blocks held) · (8 D + 4 F), plus about 600 MB for the program,

where the blocks held are those with trained weights, or with `gradient_checkpointing` one (and 4 t D for each other).
Neither the number of pairs in a step nor that of steps is in it. There are no logits. If only the head is trained, no
block is held, and the kept states take 8 D bytes a pair. Measured on SmolLM2-135M (P = 134.5
million, L 30, D 576, F 1,536) with micro_batch 4 and max_length 256: LoRA 3.4 GB (by the formula at most 3.8), all
weights with checkpointing 2.7 GB (3.0).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForSequenceClassification

from rebend.config.rewards import TrainedReward
from rebend.errors import ConfigError, ModelError
from rebend.io.checkpoints import Checkpoints
from rebend.io.files import whole_directory
from rebend.io.memory import keep_flat, memory_advice
from rebend.io.progress import progress
from rebend.models.layers import named_blocks
from rebend.models.loading import best_device, load_tokenizer, stamp
from rebend.models.lora import linear_modules
from rebend.models.remote_code import runs_code
from rebend.models.rewards.held_out import differences, held_out_facts, mean_loss, pair_rewards
from rebend.models.rewards.kept_states import KeptStates
from rebend.models.rewards.pairs import Pair, Parts, divide
from rebend.models.tiny_model import learning_rate, plan_batches

_MEMORY_ADVICE = "a smaller micro_batch, a smaller max_length, gradient_checkpointing: true, fewer n_blocks"


def train_reward_model(
    base: str | Path,
    rows: Sequence[Mapping[str, Any]],
    settings: TrainedReward,
    out: str | Path,
    checkpoints: Checkpoints,
    held_out_rows: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train a reward model on rows of schema PREFERENCE and save it in the folder `out`; return facts for the record.

    The model is the decoder of the folder `base`, or its first blocks, with a linear head of one output at the last
    token of prompt and response. Loss: -log σ(r(chosen) - r(rejected)), mean over the pairs of a step (Bradley and
    Terry). LoRA is merged before saving, so that the folder is an ordinary checkpoint. The facts are those of
    `rebend.models.rewards.held_out.held_out_facts`, the numbers of pairs, and the losses. A killed training resumes
    from `checkpoints` and ends in the same bytes (on a CPU).

    Raises `DataError` for too few pairs (`rebend.models.rewards.pairs.divide`), `ConfigError` for blocks that the model
    does not have, `ModelError` if the loss is no finite number or memory is short.
    """
    keep_flat()
    tokenizer = load_tokenizer(base)
    with memory_advice(_MEMORY_ADVICE):
        model = start_model(base, tokenizer.pad_token_id, settings)
        context = model.config.max_position_embeddings
        parts = divide(tokenizer, rows, held_out_rows, settings, min(settings.max_length or context, context))
        trainer = RewardTrainer(model, parts, settings, checkpoints)
        trainer.run()
        model = trainer.plain_model()
        found = differences(partial(pair_rewards, model), parts.held_out, settings.micro)
    with whole_directory(out) as folder:
        model.cpu().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        stamp(folder)
    return {**trainer.facts(), **held_out_facts(found, [pair.longer_by for pair in parts.held_out])}


def start_model(base: str | Path, pad_token_id: int, settings: TrainedReward) -> Any:
    """Return the reward model before its training, in eval mode (without dropout), on the best device.

    Raises `ConfigError` for more blocks than the model has, and if no block is left to train.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # the head's weights are drawn from the global generator
        model = AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=1, dtype=torch.float32, local_files_only=True, trust_remote_code=runs_code(base)
        )
    model.config.pad_token_id = pad_token_id
    if settings.head_start == "zero":
        nn.init.zeros_(model.score.weight)
    _, blocks = named_blocks(model)
    n_blocks = settings.n_blocks or len(blocks)
    if not settings.frozen_blocks < n_blocks + settings.head_only <= len(blocks) + settings.head_only:
        raise ConfigError(
            f"n_blocks is {n_blocks} and frozen_blocks is {settings.frozen_blocks}: the model has {len(blocks)} "
            "decoder blocks; of those used, at least one must be trained, or (with lora_r 0) only the head"
        )
    del blocks[n_blocks:]
    model.config.num_hidden_layers = n_blocks
    if len(getattr(model.config, "layer_types", None) or []) > n_blocks:
        model.config.layer_types = model.config.layer_types[:n_blocks]
    return model.to(best_device())


class RewardTrainer:
    """One training: the model with its trained weights, the losses so far, and the best weights so far."""

    def __init__(self, model: Any, parts: Parts, settings: TrainedReward, checkpoints: Checkpoints) -> None:
        self.model, self.parts, self.settings, self.checkpoints = model, parts, settings, checkpoints
        self.adapted = _mark_trained(model, settings)
        self.trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if settings.gradient_checkpointing:
            for block in named_blocks(model)[1]:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        # torch's fused kernel: one pass over the weights
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=settings.lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True
        )
        kept = [*parts.train, *parts.choice] if list(self.trained) == ["score.weight"] else []
        self.states = KeptStates(model, kept)
        self.rewards_of = self.states.rewards if kept else partial(pair_rewards, model)
        self.losses: list[float] = []  # one per step
        self.choices: list[float] = []  # loss on the pairs that choose, one per evaluation
        self.best: dict[str, Tensor] = {}
        self._resume()

    def run(self) -> None:
        """Do the steps that are left, and put the best weights into the model if checkpoints are compared."""
        settings, done = self.settings, len(self.losses)
        batches = plan_batches(
            [pair.length for pair in self.parts.train], settings.batch_size, settings.steps, settings.seed
        )
        left = itertools.islice(batches, done, None)
        with self.checkpoints.on_signal():
            for batch in progress(left, "training the reward model", total=settings.steps, done=done):
                if self.is_stopped():
                    break
                self.step([self.parts.train[number] for number in batch])
                if settings.eval_every and not len(self.losses) % settings.eval_every:
                    self.evaluate()
                self.checkpoints.after_step(self._state)
        if self.best:
            self._load(self.best)

    def step(self, batch: Sequence[Pair]) -> None:
        """Do one optimiser step; the gradients of micro-batches are added. Raises `ModelError` for a loss of NaN."""
        settings = self.settings
        rate = learning_rate(len(self.losses), settings.steps, settings.lr, settings.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total = 0.0
        for first in range(0, len(batch), settings.micro):  # a step's pairs are sorted by length: little padding
            part = batch[first : first + settings.micro]
            chosen, rejected = self.rewards_of(part).T
            loss = -functional.logsigmoid(chosen - rejected).mean() * (len(part) / len(batch))
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            raise ModelError(f"step {len(self.losses) + 1}: the loss is {total}; a lower lr may help")
        nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(total)

    def evaluate(self) -> None:
        """Take the loss on the pairs that choose, and keep the weights if it is the lowest so far."""
        loss = mean_loss(differences(self.rewards_of, self.parts.choice, self.settings.micro))
        if loss < min(self.choices, default=math.inf):
            self.best = self._weights()
        self.choices.append(loss)

    def is_stopped(self) -> bool:
        """Whether the loss on the pairs that choose has not fallen for `patience` evaluations."""
        if not self.choices:
            return False
        return len(self.choices) - 1 - int(np.argmin(self.choices)) >= self.settings.patience

    def plain_model(self) -> Any:
        """Return the model with its LoRA merged into the weights."""
        for block in named_blocks(self.model)[1] if self.settings.gradient_checkpointing else ():
            del block.forward
        return self.adapted.merge_and_unload() if self.settings.lora_r else self.model

    def facts(self) -> dict[str, Any]:
        """Return the numbers of pairs, steps and weights, and the losses."""
        every = self.settings.eval_every
        chosen = {
            "choice_pairs": len(self.parts.choice),
            "choice_losses": [round(loss, 4) for loss in self.choices],
            "best_step": every * (1 + int(np.argmin(self.choices))) if every and self.choices else None,
        }
        return {
            "pairs": len(self.parts.train),
            "pairs_alike_after_cutting": self.parts.alike,
            "pairs_left_out_for_length": self.parts.unbalanced,
            "steps": len(self.losses),
            "trained_weights": sum(weight.numel() for weight in self.trained.values()),
            "first_loss": round(self.losses[0], 4),
            "last_loss": round(float(np.mean(self.losses[-20:])), 4),
            **(chosen if every else {}),
        }

    def _resume(self) -> None:
        state = self.checkpoints.load()
        if state is None:
            return
        self._load(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses, self.choices, self.best = state["losses"], state["choices"], state["best"]
        self.states.known = state["states"]

    def _state(self) -> dict[str, Any]:
        kept = {"losses": self.losses, "choices": self.choices, "best": self.best, "states": self.states.known}
        return {"weights": self._weights(), "optimizer": self.optimizer.state_dict(), **kept}

    def _weights(self) -> dict[str, Tensor]:
        return {name: weight.detach().cpu().clone() for name, weight in self.trained.items()}

    @torch.no_grad()
    def _load(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in self.trained.items():
            weight.copy_(weights[name])


def _mark_trained(model: Any, settings: TrainedReward) -> Any:
    """Freeze all weights that are not trained and, with LoRA, return the model with an adapter on its linear modules.

    The head is always trained. The first `frozen_blocks` blocks get no gradient, and so need no backward pass; if these
    are all blocks, only the head is trained.
    """
    pattern, modules = linear_modules(model)
    blocks = named_blocks(model)[1]
    adapted = model
    if not settings.lora_r and settings.frozen_blocks == len(blocks):
        model.requires_grad_(False)
    elif settings.lora_r:
        used = list(range(settings.frozen_blocks, len(blocks)))
        config = LoraConfig(
            r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
            target_modules=modules,
            layers_to_transform=used,
            layers_pattern=pattern,
        )
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(settings.seed)
            adapted = get_peft_model(model, config)
    elif settings.frozen_blocks:
        model.get_input_embeddings().weight.requires_grad_(False)
        for block in blocks[: settings.frozen_blocks]:
            block.requires_grad_(False)
    model.score.requires_grad_(True)
    return adapted
