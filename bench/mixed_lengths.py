"""Decode 60 HarmBench prompts of mixed length, beside the least time that the model allows and the library's loop.

A Llama of SmolLM2-135M's shape with random weights, float32, greedy, 48 new tokens, no response ends early. A prompt
has as many tokens as words and punctuation marks, and 31 of a template. The least time (`mixed_lengths_bound_s`) is
that of reading all prompts' tokens at the model's best rate, and of 47 steps of 60 rows over caches that hold as many
positions as the prompts and no padding. All times are CPU seconds of this process.

    python bench/mixed_lengths.py path/to/harmbench/behaviors_text_test.csv              # 3 minutes on one thread
    python bench/mixed_lengths.py path/to/harmbench/behaviors_text_test.csv --quick      # without the padded batch
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from latest import keep
from random_llama import random_llama
from transformers import DynamicCache, GenerationConfig

from rebend.config.decoding import Decoding
from rebend.generation.continuous_batching import generate_continuous
from rebend.generation.growing_cache import GrowingCache
from rebend.generation.requests import Request, left_padded
from rebend.models.loading import Policy

NEW, TEMPLATE = 48, 31
DECODING = Decoding(max_new_tokens=NEW, batch_size=60)


def main() -> None:
    """Measure, print the figures and add them to `bench/latest.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path, help="HarmBench's behaviors_text_test.csv")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="without one padded batch of all prompts")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    policy, lengths = smollm2_shaped(), token_counts(arguments.prompts)
    asked = requests(lengths)
    short = requests(sorted(lengths)[:-10] + sorted(lengths)[:10])  # 60 prompts without the contextual ones
    figures: dict[str, Any] = {"prompts": len(lengths), "prompt_tokens": sum(lengths), "longest": max(lengths)}
    with torch.inference_mode():
        list(generate_continuous(policy, asked[-2:], Decoding(max_new_tokens=2)))  # warm-up
        figures["s"] = seconds(lambda: list(generate_continuous(policy, asked, DECODING)))
        figures |= bound(policy, lengths)
        figures["ratio"] = figures["s"] / figures["bound_s"]
        figures["short_tokens_per_s"] = 60 * NEW / seconds(lambda: list(generate_continuous(policy, short, DECODING)))
        figures["short_library_tokens_per_s"] = 60 * NEW / seconds(lambda: library(policy, short))
        if not arguments.quick:
            figures |= padded(policy, asked)
    rounded = {f"mixed_lengths_{k}": v if isinstance(v, int) else float(f"{v:.3g}") for k, v in figures.items()}
    for name, value in rounded.items():
        print(f"{name:40} {json.dumps(value)}")
    keep(rounded)


def bound(policy: Policy, lengths: Sequence[int]) -> dict[str, float]:
    """Return the least seconds of reading and decoding, and the share of the LM head in a step."""
    model = policy.model
    passes = {(1, 1024): 1024, (4, 256): 1024, (16, 64): 1024}
    rates = [
        seconds(lambda: model(ids(*shape), use_cache=True, logits_to_keep=1)) / n  # noqa: B023
        for shape, n in passes.items()
    ]
    reading = sum(lengths) * min(rates)
    cache, width = GrowingCache(model.config), sum(lengths) // len(lengths) + NEW // 2
    states = torch.randn(len(lengths), 3, width, 64)
    for layer in cache.layers:
        layer.update(states, states)
    newest = ids(len(lengths), 1)
    step = min(seconds(lambda: model(newest, past_key_values=cache, logits_to_keep=1)) for _ in range(5))
    states = torch.randn(len(lengths), model.config.hidden_size)
    head = min(seconds(lambda: model.lm_head(states)) for _ in range(5))
    return {
        "bound_s": reading + (NEW - 1) * step,
        "reading_s": reading,
        "step_s": step,
        "head_share": head / step,
    }


def padded(policy: Policy, asked: Sequence[Request]) -> dict[str, float]:
    """Return the seconds of the passes of the library's loop on one padded batch of all prompts: reading, and a step.

    47 equal steps are assumed for their sum, so that the measurement takes minutes less.
    """
    model, cache, prompts = policy.model, DynamicCache(config=policy.model.config), left_padded(policy, asked)
    reading = seconds(lambda: model(**prompts, past_key_values=cache, logits_to_keep=1))
    mask = torch.nn.functional.pad(prompts["attention_mask"], (0, 1), value=1)
    positions = mask.sum(1, keepdim=True) - 1
    newest = ids(len(asked), 1)
    options = {"input_ids": newest, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
    step = seconds(lambda: model(**options, logits_to_keep=1))
    return {"padded_reading_s": reading, "padded_step_s": step, "padded_s": reading + (NEW - 1) * step}


def library(policy: Policy, asked: Sequence[Request]) -> Any:
    """Run the library's own generate loop on one padded batch."""
    ends = policy.tokenizer.eos_token_id
    settings = GenerationConfig(
        max_new_tokens=NEW, do_sample=False, eos_token_id=ends, pad_token_id=policy.tokenizer.pad_token_id
    )
    cache = DynamicCache(config=policy.model.config)
    return policy.model.generate(**left_padded(policy, asked), generation_config=settings, past_key_values=cache)


def seconds(act: Callable[[], Any]) -> float:
    """Return the CPU seconds of a call, over the threads."""
    start = time.process_time()
    act()
    spent = (time.process_time() - start) / torch.get_num_threads()
    print(f"{spent:.3f} s", flush=True)
    return spent


def token_counts(path: Path) -> list[int]:
    """Return the number of tokens of each prompt: its words and punctuation marks, and the template's tokens."""
    with path.open(encoding="utf-8", newline="") as file:
        texts = [f"{row['ContextString']}\n{row['Behavior']}" for row in csv.DictReader(file)]
    return [TEMPLATE + len(re.findall(r"\w+|[^\w\s]", text)) for text in texts]


def requests(lengths: Sequence[int]) -> list[Request]:
    """Return requests with random prompts of these lengths."""
    return [Request(str(n), ids(1, length, seed=n)[0].tolist()) for n, length in enumerate(lengths)]


def ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Return random token ids [B, T]."""
    return torch.randint(400, 49_000, (rows, length), generator=torch.Generator().manual_seed(seed))


def smollm2_shaped() -> Policy:
    """Return a Llama of SmolLM2-135M's shape with random weights that never ends a response."""
    return random_llama(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )


if __name__ == "__main__":
    main()
