"""Check of a merged model: its logits must equal those of base and adapter, except for rounding.

Merged weights are rounded, so in 16 bits the merged model cannot be equal. The effect of rounding is measured on the
same model: PEFT adds the same adapter to the same weights in memory, and the distance of that model from base and
adapter is the measured rounding. Only one model is loaded at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rebend.errors import ModelError
from rebend.models.chat import Message, encode_text, prompt_text
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
ANSWER = 16  # tokens of the adapted model's greedy answer that are compared
POSITIONS = 32  # number of compared positions, the last ones of prompt and answer


@dataclass(frozen=True)
class Equivalence:
    """Distance of two models on the same tokens."""

    max_logit_difference: float  # largest absolute difference, raw logits
    largest_logit: float  # largest absolute logit of the first
    greedy_agreement: float  # rate of positions with the same most likely token
    kl: float  # mean over positions of KL(first ‖ second), nats
    positions: int


@dataclass(frozen=True)
class Tolerance:
    """Tolerances per dtype: a floor for near-zero measured rounding, and an absolute limit."""

    logit_floor: float  # of the largest logit
    logit_limit: float  # of the largest logit
    kl_floor: float  # nats per position
    kl_limit: float
    agreement_limit: float  # rate


# Measured on random Llamas (3 to 32 blocks, width 64 to 512, stored in bfloat16; adapters that change the logits by
# 1 to 50 % of the largest), rounding (PEFT's merge in memory) has these effects:
#   float32   largest difference 8e-7 to 8e-6 of the largest logit, KL 3e-14 to 3e-11, agreement 1
#   float16                      2e-3 to 1e-2                        2e-7 to 8e-5             0.98 to 1
#   bfloat16                     1e-2 to 1e-1                        1e-5 to 5e-3             0.90 to 0.98
# The written model is also rounded once; on a CPU it has exactly the same distances. The factors below allow for
# devices that add in no fixed order. A scale that is wrong by 5 % changes the logits 100 times as much in float32; in
# 16 bits it is detected if the KL of the adapter against its base is some hundred times that of rounding. The limits
# hold even if PEFT's merge is wrong.
TOLERANCES = {
    "float32": Tolerance(1e-5, 1e-4, 1e-9, 1e-6, 0.98),
    "float16": Tolerance(1e-3, 5e-2, 1e-6, 1e-2, 0.90),
    "bfloat16": Tolerance(8e-3, 2e-1, 1e-5, 5e-2, 0.80),
}
LARGEST_FACTOR = 2.0  # on a maximum and on a count
MEAN_FACTOR = 1.5  # on a mean, which varies less


@dataclass(frozen=True)
class Expected:
    """Logits of base and adapter, and the distances to compare with."""

    tokens: list[Tensor]  # prompt and greedy answer of base and adapter, `[1, T]` each, on CPU
    logits: list[Tensor]  # `[P, V]` each, float32 on CPU; P at most POSITIONS
    rounding: Equivalence  # base and adapter against the same, merged by PEFT in memory
    effect: Equivalence  # base and adapter against the base alone


@torch.no_grad()
def expected_answers(
    base: str | Path, adapter: str | Path, dtype: str, prompts: Sequence[Sequence[Message]] | None = None
) -> Expected:
    """Return the logits of base and adapter on `prompts` (CHECK_PROMPTS if None), with rounding and adapter's effect.

    Raises `ModelError` if the adapter does not fit the base.
    """
    policy = load_policy(base, dtype)
    model = load_adapter(policy, adapter)
    chats = prompts or [[{"role": "user", "content": text}] for text in CHECK_PROMPTS]
    tokens = [_with_answer(policy.tokenizer, model, chat) for chat in chats]
    logits = last_logits(model, tokens)
    with model.disable_adapter():
        effect = compare(logits, last_logits(model, tokens))
    model.merge_adapter()
    rounding = compare(logits, last_logits(model, tokens))
    return Expected(tokens, logits, rounding, effect)


def merged_equivalence(expected: Expected, merged: str | Path, dtype: str) -> Equivalence:
    """Load a merged model and return its distance from base and adapter."""
    return compare(expected.logits, last_logits(load_policy(merged, dtype).model, expected.tokens))


@torch.no_grad()
def last_logits(model: Any, tokens: Sequence[Tensor]) -> list[Tensor]:
    """Return the logits at the last positions of texts (`[1, T]` each): `[P, V]` each, float32 on the CPU."""
    return [
        model(input_ids=text.to(model.device), use_cache=False, logits_to_keep=POSITIONS).logits[0].float().cpu()
        for text in tokens
    ]


def compare(first: Sequence[Tensor], second: Sequence[Tensor]) -> Equivalence:
    """Compare two lists of logits, `[P, V]` per text. A NaN in either gives a NaN in the result."""
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


def check_equivalence(merged: Equivalence, rounding: Equivalence, dtype: str) -> None:
    """Raise `ModelError` unless `merged` is within the limits of `dtype` and of the measured `rounding`."""
    tolerance = TOLERANCES[dtype]
    size = merged.largest_logit
    logits = min(
        LARGEST_FACTOR * rounding.max_logit_difference + tolerance.logit_floor * size, tolerance.logit_limit * size
    )
    kl = min(MEAN_FACTOR * rounding.kl + tolerance.kl_floor, tolerance.kl_limit)
    # Two positions more than by rounding: ties may be broken either way.
    misses = LARGEST_FACTOR * (1 - rounding.greedy_agreement) + 2 / merged.positions
    agreement = max(1 - misses, tolerance.agreement_limit)
    # These comparisons are false for a NaN, so a NaN raises, too.
    if not (merged.max_logit_difference <= logits and merged.greedy_agreement >= agreement and merged.kl <= kl):
        raise ModelError(
            "the merged model is not the base with its adapter: "
            f"logits differ by up to {merged.max_logit_difference:.3g} (allowed in {dtype}: {logits:.3g}), "
            f"greedy choices agree at a rate of {merged.greedy_agreement:.3f} (needed: {agreement:.3f}), "
            f"mean KL is {merged.kl:.3g} nats per token (allowed: {kl:.3g}), over {merged.positions} positions"
        )


def does_nothing(expected: Expected, dtype: str) -> bool:
    """Return whether the adapter's effect on its base is not above that of rounding to `dtype`.

    Such an adapter can be merged, but the merged model is the base for all that can be measured: every changed weight
    may have been rounded back.
    """
    limit = max(MEAN_FACTOR * expected.rounding.kl, TOLERANCES[dtype].kl_floor)
    return expected.effect.kl <= limit


def equivalence_facts(merged: Equivalence, expected: Expected) -> dict[str, Any]:
    """Return the facts for the record: distance of the merged model, of rounding, and of the adapter from its base."""
    return {
        **asdict(merged),
        "rounding": asdict(expected.rounding),
        "adapter_effect": asdict(expected.effect),
    }


def _with_answer(tokenizer: Any, model: Any, chat: Sequence[Message]) -> Tensor:
    """Return a chat's tokens followed by the model's greedy answer, `[1, T]`, on the CPU."""
    tokens = torch.tensor([encode_text(tokenizer, prompt_text(tokenizer, chat))], device=model.device)
    return model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=ANSWER,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    ).cpu()
