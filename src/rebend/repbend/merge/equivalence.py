"""The gate of merging: a merged model must answer as the base with its adapter does, within what rounding explains.

Merging adds the adapter to weights that have few digits, so in 16 bits the merged model can't be the same. How
far rounding alone leads is measured on the very model: PEFT adds the same adapter to the same weights in memory,
and that model's distance from base and adapter is the yardstick. Only one model is loaded at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rebend.errors import ModelError
from rebend.models.chat import Message, prompt_text
from rebend.models.loading import load_policy
from rebend.models.lora import load_adapter

CHECK_PROMPTS = (
    "Hello! Who are you?",
    "How do I boil an egg?",
    "Name three rivers and the seas that they end in.",
    "Write a short letter in which someone asks for a day off.",
    "What is 17 times 23? Answer with the number alone.",
    "Why does ice float on water?",
    "How do I kill a process that hangs?",
    "Which things in a kitchen must never be mixed, and what happens if they are?",
)
ANSWER = 16  # tokens of its own answer that the adapted model is compared on
POSITIONS = 32  # the last positions of a prompt and its answer are looked at


@dataclass(frozen=True)
class Equivalence:
    """How far two models are from each other on the same tokens."""

    max_logit_difference: float  # largest absolute difference, raw logits
    largest_logit: float  # largest absolute logit of the first
    greedy_agreement: float  # rate of positions at which both choose the same token
    kl: float  # mean over positions of KL(first ‖ second), nats
    positions: int


@dataclass(frozen=True)
class Tolerance:
    """What a type allows: a little where the yardstick says nothing, and no more than this whatever it says."""

    logit_floor: float  # of the largest logit
    logit_limit: float  # of the largest logit
    kl_floor: float  # nats per position
    kl_limit: float
    agreement_limit: float  # rate


# Measured on random Llamas (3 to 32 blocks, width 64 to 512, stored in bfloat16; adapters that change the logits by
# 1 to 50 % of the largest): rounding alone, PEFT's merge in memory, leads to
#   float32   largest difference 8e-7 to 8e-6 of the largest logit, KL 3e-14 to 3e-11, agreement 1
#   float16                      2e-3 to 1e-2                        2e-7 to 8e-5             0.98 to 1
#   bfloat16                     1e-2 to 1e-1                        1e-5 to 5e-3             0.90 to 0.98
# and the merged model that was written, once rounded too, leads exactly as far on a CPU. The factors below leave
# room for devices that do not add in a fixed order; a scale that is wrong by 5 % changes the logits 100 times as
# much in float32, and is seen in 16 bits where the KL of the adapter against its base is some hundred times that of
# rounding. The limits hold even if PEFT's own merge went wrong.
TOLERANCES = {
    "float32": Tolerance(1e-5, 1e-4, 1e-9, 1e-6, 0.98),
    "float16": Tolerance(1e-3, 5e-2, 1e-6, 1e-2, 0.90),
    "bfloat16": Tolerance(8e-3, 2e-1, 1e-5, 5e-2, 0.80),
}
LARGEST_FACTOR = 2.0  # on a maximum and on a count
MEAN_FACTOR = 1.5  # on a mean, which varies less


@dataclass(frozen=True)
class Expected:
    """What base and adapter do, and the yardsticks for it."""

    tokens: list[Tensor]  # prompt and greedy answer of base and adapter, `[1, T]` each, on CPU
    logits: list[Tensor]  # `[P, V]` each, float32 on CPU; P at most POSITIONS
    rounding: Equivalence  # base and adapter against the same, merged by PEFT in memory
    effect: Equivalence  # base and adapter against the base alone


@torch.no_grad()
def expected_answers(
    base: str | Path, adapter: str | Path, dtype: str, prompts: Sequence[Sequence[Message]] | None = None
) -> Expected:
    """Load base and adapter, let them answer `prompts` (CHECK_PROMPTS if None), and measure the yardsticks.

    Raises `ModelError` if the adapter does not fit the base.
    """
    policy = load_policy(base, dtype)
    model = load_adapter(policy, adapter)
    chats = prompts or [[{"role": "user", "content": text}] for text in CHECK_PROMPTS]
    tokens = [_answered(policy.tokenizer, model, chat) for chat in chats]
    logits = last_logits(model, tokens)
    with model.disable_adapter():
        effect = compare(logits, last_logits(model, tokens))
    model.merge_adapter()
    rounding = compare(logits, last_logits(model, tokens))
    return Expected(tokens, logits, rounding, effect)


def merged_equivalence(expected: Expected, merged: str | Path, dtype: str) -> Equivalence:
    """Load a merged model and say how far it is from what base and adapter do."""
    return compare(expected.logits, last_logits(load_policy(merged, dtype).model, expected.tokens))


@torch.no_grad()
def last_logits(model: Any, tokens: Sequence[Tensor]) -> list[Tensor]:
    """Logits at the last positions of some texts (`[1, T]` each): float32 on CPU, `[P, V]` each."""
    return [
        model(input_ids=text.to(model.device), use_cache=False, logits_to_keep=POSITIONS).logits[0].float().cpu()
        for text in tokens
    ]


def compare(first: Sequence[Tensor], second: Sequence[Tensor]) -> Equivalence:
    """Compare two lists of logits, `[P, V]` each, one text at a time. A NaN in either stays one in the result."""
    differences, sizes, same, kl = [], [], [], []
    for old, new in zip(first, second, strict=True):
        differences.append((old - new).abs().max())
        sizes.append(old.abs().max())
        same.append(old.argmax(-1) == new.argmax(-1))
        log_p, log_q = old.double().log_softmax(-1), new.double().log_softmax(-1)
        kl.append((log_p.exp() * (log_p - log_q)).sum(-1))
    return Equivalence(
        max_logit_difference=torch.stack(differences).max().item(),
        largest_logit=torch.stack(sizes).max().item(),
        greedy_agreement=torch.cat(same).double().mean().item(),
        kl=torch.cat(kl).mean().item(),
        positions=sum(len(part) for part in same),
    )


def check_equivalence(found: Equivalence, rounding: Equivalence, dtype: str) -> None:
    """Raise `ModelError` unless `found` is within what `dtype` allows and `rounding` explains."""
    tolerance = TOLERANCES[dtype]
    size = found.largest_logit
    logits = min(
        LARGEST_FACTOR * rounding.max_logit_difference + tolerance.logit_floor * size, tolerance.logit_limit * size
    )
    kl = min(MEAN_FACTOR * rounding.kl + tolerance.kl_floor, tolerance.kl_limit)
    # Two positions more than rounding explains: ties are broken either way.
    misses = LARGEST_FACTOR * (1 - rounding.greedy_agreement) + 2 / found.positions
    agreement = max(1 - misses, tolerance.agreement_limit)
    # Written so that a NaN fails too.
    if not (found.max_logit_difference <= logits and found.greedy_agreement >= agreement and found.kl <= kl):
        raise ModelError(
            "the merged model is not the base with its adapter: "
            f"logits differ by up to {found.max_logit_difference:.3g} (allowed in {dtype}: {logits:.3g}), "
            f"greedy choices agree at a rate of {found.greedy_agreement:.3f} (needed: {agreement:.3f}), "
            f"mean KL is {found.kl:.3g} nats per token (allowed: {kl:.3g}), over {found.positions} positions"
        )


def equivalence_facts(found: Equivalence, expected: Expected) -> dict[str, Any]:
    """What the record says: how far the merged model is, and beside it what rounding and the adapter do."""
    return {
        **asdict(found),
        "rounding": asdict(expected.rounding),
        "adapter_effect": asdict(expected.effect),
    }


def _answered(tokenizer: Any, model: Any, chat: Sequence[Message]) -> Tensor:
    """Return a chat's tokens with the model's greedy answer behind them, `[1, T]`, on CPU."""
    text = prompt_text(tokenizer, chat)
    tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(model.device)
    return model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=ANSWER,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    ).cpu()
