"""Compare RE-Control's released ascent (`bench/reference/control.py`) with rebend's, alone and while decoding.

Networks and models have random weights. The networks' weights are 1.7 times as large as a new network's, and the step
size moves a state by a quarter of its norm in 30 steps, so that a tenth of the units flip. Both sides take turns on the
same states; the least time of each counts.

    python bench/control.py                           # CPU, one thread; 6 minutes
    python bench/control.py --only solver             # control_solver_speedup and control_max_difference alone
    python bench/control.py --only decoding           # control_overhead alone
    python bench/control.py --threads 2 --name control_2_threads
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from latest import keep
from random_llama import random_llama
from reference.control import controlled, released_ascent

from rebend.config.decoding import Decoding
from rebend.generation.fixed_batches import generate_batch
from rebend.generation.intervention import NoControl
from rebend.generation.requests import Request
from rebend.models.loading import Policy
from rebend.recontrol.methods.ascent import AscentCache, ascend
from rebend.recontrol.methods.value_ascent import ValueAscent
from rebend.recontrol.value_model.network import Shape, ValueNetwork, new_network

ROOT = Path(__file__).parents[1]
N_STEPS, MOVE, SCALE = 30, 0.25, 1.7
_LONG = 12.0  # seconds after which no further turn begins, once each side has one measured turn
SOLVERS = ((128, 256), (768, 1024), (4096, 4096))  # D and H
BATCHES = (1, 16, 64)
# hidden size, between, blocks, heads, vocabulary; widths of the value network; tokens of a response; repeats
MODELS: dict[str, tuple[tuple[int, int, int, int, int], tuple[int, ...], int, int]] = {
    "tiny": ((128, 344, 3, 4, 1040), (256,), 40, 24),
    "100m": ((768, 2048, 12, 12, 16_000), (1024, 4096), 12, 4),
}
DECODED = (1, 16, 32)


def main() -> None:
    """Measure, print the figures and add them to `bench/latest.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["solver", "decoding"])
    parser.add_argument("--name", default="control", help="prefix of the figures' names")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures: dict[str, Any] = {}
    if arguments.only != "decoding":
        figures |= {**solver(), **differences()}
    if arguments.only != "solver":
        figures |= decoding()
    figures = {f"{arguments.name}_{key}": value for key, value in figures.items()}
    for name, value in figures.items():
        print(f"{name:40} {json.dumps(value)}")
    keep(figures)


def solver() -> dict[str, Any]:
    """Return how many times faster the ascent is than the released loop, and the milliseconds of both."""
    faster: dict[str, float] = {}
    times: dict[str, tuple[float, float]] = {}
    for size, width in SOLVERS:
        for layers in (2, 3):
            net = network(size, width, layers)
            cache = AscentCache(net)
            for batch in BATCHES:
                h, name = states(batch, size), f"D{size}_H{width}_layers{layers}_batch{batch}"
                alpha = step_size(net, h)
                sides = {
                    "reference": lambda: released_ascent(net, h, alpha, N_STEPS),  # noqa: B023
                    "ours": lambda: ascend(net, h, alpha, N_STEPS, cache),  # noqa: B023
                }
                measured = least(sides, 3 if width > 256 else 30)
                times[name] = round(measured["reference"] * 1e3, 3), round(measured["ours"] * 1e3, 3)
                faster[name] = round(measured["reference"] / measured["ours"], 1)
                print(f"{name}: {times[name]} ms, {faster[name]} times")
    return {"solver_speedup": faster, "solver_ms": times}


def differences() -> dict[str, Any]:
    """Return the largest relative difference of a state in both precisions, and the share of rows beyond rounding.

    In single precision a unit that ends a step within rounding of its kink can flip on one side and not on the other,
    with any algorithm.
    """
    differences_by_type: dict[torch.dtype, list[torch.Tensor]] = {torch.float64: [], torch.float32: []}
    for size, width in SOLVERS[:2]:
        for layers in (2, 3):
            net, h = network(size, width, layers), states(64, size)
            alpha = step_size(net, h)
            for dtype, values in differences_by_type.items():
                truth = released_ascent(net.to(dtype), h.to(dtype), alpha, N_STEPS)
                values.append((ascend(net, h.to(dtype), alpha, N_STEPS) - truth).norm(dim=1) / truth.norm(dim=1))
    double, single = (torch.cat(values) for values in differences_by_type.values())
    return {
        "max_difference": float(f"{double.max():.2g}"),
        "max_difference_float32": float(f"{single.max():.2g}"),
        "median_difference_float32": float(f"{single.median():.2g}"),
        "share_beyond_rounding_float32": round(float((single > 2e-6).float().mean()), 4),
    }


def decoding() -> dict[str, Any]:
    """Return the time of decoding with control over the time without it, by model, width, layers and batch."""
    overhead: dict[str, float] = {}
    released: dict[str, float] = {}
    rate: dict[str, float] = {}
    for name, (sizes, widths, tokens, repeats) in MODELS.items():
        policy = random_policy(*sizes)
        for width in widths:
            nets = {layers: network(sizes[0], width, layers) for layers in ((2, 3) if width == widths[0] else (2,))}
            for batch in DECODED:
                batch_requests, settings = requests(batch, sizes[-1]), Decoding(max_new_tokens=tokens)
                alphas = {layers: step_size(net, states(64, sizes[0])) for layers, net in nets.items()}
                controls = {"plain": NoControl()} | {
                    f"layers{layers}": ValueAscent(net, alphas[layers], N_STEPS) for layers, net in nets.items()
                }
                sides = {
                    side: lambda c=control: generate_batch(policy, batch_requests, settings, control=c)  # noqa: B023
                    for side, control in controls.items()
                }
                measured = least(sides, repeats)
                key = f"{name}_H{width}_batch{batch}"
                for layers in nets:
                    overhead[f"{key}_layers{layers}"] = round(measured[f"layers{layers}"] / measured["plain"], 3)
                rate[f"{name}_batch{batch}"] = round(batch * tokens / measured["plain"], 1)
                if batch == 16 and width == widths[0]:
                    with controlled(policy.model, nets[2], alphas[2], N_STEPS, whole=True):
                        slow = least({"released": sides["plain"]}, 2)["released"]
                    released[f"{key}_layers2"] = round(slow / measured["plain"], 2)
                print(key, {side: round(seconds, 4) for side, seconds in measured.items()})
    return {"overhead": overhead, "overhead_released": released, "plain_tokens_per_s": rate}


def least(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the least CPU seconds of each side. Sides alternate; the first call of each is not counted.

    CPU seconds of this process over its threads vary less than wall time on a busy machine.
    """
    seconds = dict.fromkeys(sides, float("inf"))
    begun = time.perf_counter()
    for number in range(repeats + 1):
        if number > 1 and time.perf_counter() - begun > _LONG:
            break
        for side, act in sides.items():
            start = time.process_time()
            with torch.inference_mode() if side != "reference" else nullcontext():
                act()
            if number:
                seconds[side] = min(seconds[side], (time.process_time() - start) / torch.get_num_threads())
    return seconds


def network(size: int, width: int, layers: int) -> ValueNetwork:
    """Return a value network whose weights require gradients, as in the released code."""
    net = new_network(Shape(size, width, layers), 0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(SCALE)
    return net


def states(batch: int, size: int) -> torch.Tensor:
    """Return random states [B, D]."""
    return torch.randn(batch, size, generator=torch.Generator().manual_seed(1))


def step_size(net: ValueNetwork, h: torch.Tensor) -> float:
    """Return the α with which 30 steps along the first gradient move the states by `MOVE` of their norm."""
    first = (ascend(net, h, 1.0, 1) - h).norm(dim=1).mean()
    return MOVE * float(h.norm(dim=1).mean() / first) / N_STEPS


def random_policy(hidden: int, between: int, blocks: int, heads: int, vocabulary: int) -> Policy:
    """Return a Llama with random weights that never ends a response."""
    return random_llama(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=between,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        max_position_embeddings=512,
    )


def requests(batch: int, vocabulary: int) -> list[Request]:
    """Return requests with random prompts of 30 tokens."""
    drawn = torch.randint(10, vocabulary, (batch, 30), generator=torch.Generator().manual_seed(2))
    return [Request(str(row), ids) for row, ids in enumerate(drawn.tolist())]


if __name__ == "__main__":
    main()
