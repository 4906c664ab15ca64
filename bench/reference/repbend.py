"""RepBend as in its released trainer, written plainly, for comparison with rebend.

Written from a description of that code, without copying it. A micro-step takes B safe and B unsafe samples, B pairs
and B retain chats, pads every prompt on the left to 512 tokens, every answer on the right to 512 and every chat on
the left to 1,024, and runs six full passes with logits and hidden states of every layer: safe, unsafe and retain
rows, each with the adapter off (eval mode, no gradient) and on (train mode). Gradients of the micro-steps of one
optimiser step are averaged. It has no optimisations; only the emptying of caches is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, kl_div, log_softmax, softmax

from rebend.repbend.examples import StepExamples, TrainingExample


@dataclass(frozen=True)
class ReferenceSettings:
    """Names of the released code; layers are indices into `hidden_states`."""

    keep_layers: list[int]
    push_layers: list[int]
    pad_token: int
    alpha: float = 0.5
    beta: float = 0.5
    gamma: float = 0.1
    epsilon: float = 0.3
    temperature: float = 2.0
    prompt_width: int = 512
    response_width: int = 512
    gradient_checkpointing: bool = True


@dataclass(frozen=True)
class Padded:
    """Rows as one rectangle of tokens, `[B, T]` each."""

    tokens: Tensor
    attended: Tensor  # 1 at real tokens
    response: Tensor  # 1 at tokens of the answer


class ReferenceTrainer:
    """The adapted model (PEFT, one LoRA adapter), AdamW on its weights, and the published loss (`response_all`)."""

    def __init__(self, model: Any, settings: ReferenceSettings, lr: float) -> None:
        self.model = model
        self.settings = settings
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=lr, weight_decay=0.0)
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def step(self, micro_batches: Sequence[StepExamples]) -> dict[str, float]:
        """Do one optimiser step; return the terms and the loss, averaged over the micro-batches."""
        self.optimizer.zero_grad()
        values: list[dict[str, float]] = []
        for rows in micro_batches:
            terms = self.micro_step(rows)
            (terms["total"] / len(micro_batches)).backward()
            values.append({name: float(value.detach()) for name, value in terms.items()})
        self.optimizer.step()
        return {name: sum(step[name] for step in values) / len(values) for name in values[0]}

    def micro_step(self, rows: StepExamples) -> dict[str, Tensor]:
        """Run six passes; return the four terms without weight and sign, and the loss."""
        settings = self.settings
        safe = self.padded_answers([*rows.safe, *(pair[0] for pair in rows.pairs)])
        unsafe = self.padded_answers([*rows.unsafe, *(pair[1] for pair in rows.pairs)])
        chats = self.padded_chats(rows.retain)

        self.model.eval()
        with torch.no_grad(), self.model.disable_adapter():
            safe_reference = self.states(self.outputs(safe))
            unsafe_reference = self.states(self.outputs(unsafe))
            retain_reference = self.outputs(chats).logits
        self.model.train()
        safe_adapted = self.states(self.outputs(safe))
        unsafe_adapted = self.states(self.outputs(unsafe))
        retain_adapted = self.outputs(chats).logits

        safe_norm = self.moved(safe_adapted, safe_reference, safe.response, settings.keep_layers)
        unsafe_norm = self.moved(unsafe_adapted, unsafe_reference, unsafe.response, settings.push_layers)
        unsafe_cosine = self.different(unsafe_adapted)
        retain_kl = self.divergence(retain_adapted, retain_reference, chats.attended)
        terms = {
            "safe_norm": safe_norm,
            "unsafe_norm": unsafe_norm,
            "unsafe_cosine": unsafe_cosine,
            "retain_kl": retain_kl,
        }
        kept = settings.alpha * safe_norm - settings.beta * unsafe_norm
        return {**terms, "total": kept + settings.gamma * unsafe_cosine + settings.epsilon * retain_kl}

    def outputs(self, rows: Padded) -> Any:
        """Run a full pass: logits of every position and hidden states of every layer."""
        return self.model(
            input_ids=rows.tokens, attention_mask=rows.attended, output_hidden_states=True, use_cache=False
        )

    def states(self, outputs: Any) -> Tensor:
        """Copy the hidden states of all layers into one tensor, `[L + 1, B, T, D]` in float32."""
        return torch.stack(outputs.hidden_states).float()

    def moved(self, adapted: Tensor, reference: Tensor, mask: Tensor, layers: list[int]) -> Tensor:
        """Return the mean length of the change of a state, over layers and masked tokens."""
        marked = mask[None, :, :, None].float()
        change = (adapted[layers] - reference[layers]) * marked
        lengths = torch.linalg.vector_norm(change, dim=-1, dtype=torch.float32)
        return lengths.sum() / (mask.sum() * len(layers))

    def different(self, adapted: Tensor) -> Tensor:
        """Return 1 - cosine of the last prompt token's states, mean over pairs of different rows, then over layers."""
        position = self.settings.prompt_width - 1
        means = []
        for layer in self.settings.push_layers:
            ends = adapted[layer][:, position, :]
            cosines = cosine_similarity(ends[:, None, :], ends[None, :, :], dim=-1)
            different_rows = ~torch.eye(len(ends), dtype=torch.bool, device=ends.device)
            means.append((1 - cosines)[different_rows].mean())
        return torch.stack(means).mean()

    def divergence(self, adapted: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
        """Return KL(reference || adapted) at a temperature, logits of padding set to 0, over the number of chats."""
        temperature = self.settings.temperature
        marked = mask[:, :, None].float()
        new = log_softmax(adapted.float() * marked / temperature, dim=-1)
        old = softmax(reference.float() * marked / temperature, dim=-1)
        return kl_div(new, old, reduction="batchmean") * temperature**2

    def padded_answers(self, rows: Sequence[TrainingExample]) -> Padded:
        """Return the rows so that all prompts end, and all answers begin, at the same column."""
        left, right = self.settings.prompt_width, self.settings.response_width
        return self.padded(rows, left + right, [left - row.n_prompt for row in rows])

    def padded_chats(self, rows: Sequence[TrainingExample]) -> Padded:
        """Return the rows so that all chats end at the last column."""
        width = self.settings.prompt_width + self.settings.response_width
        return self.padded(rows, width, [width - len(row.tokens) for row in rows])

    def padded(self, rows: Sequence[TrainingExample], width: int, starts: Sequence[int]) -> Padded:
        """Return a rectangle of pad tokens with each row from its start."""
        tokens = torch.full((len(rows), width), self.settings.pad_token)
        attended, response = torch.zeros(2, len(rows), width, dtype=torch.long)
        for line, (row, start) in enumerate(zip(rows, starts, strict=True)):
            end = start + len(row.tokens)
            tokens[line, start:end] = torch.tensor(row.tokens)
            attended[line, start:end] = 1
            response[line, start + row.n_prompt : end] = 1
        device = self.model.device
        return Padded(tokens.to(device), attended.to(device), response.to(device))
