"""RepBend training as released, written plainly (`bench/reference/repbend.py`), against rebend's trainer.

Both get the same model, adapter, rows, order, learning rate and no dropout, and each runs in a process of its own so
that its peak memory is its own. The model has random weights; the rows are real dialogues, tokenised here.

    python bench/repbend.py                                # CPU, a small Llama, 20 steps of 4 in float32
    python bench/repbend.py --device cuda --size 8b --peak-tflops 989 --attention flash_attention_2
                                                           # one H100, an 8B-shaped Llama, 16 items a step in bfloat16
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latest import keep
from repbend_cost import LORA_R, Memory, Size, grouped, needed_flops
from repbend_rows import ANSWERS, CHATS, tokenised

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("REBEND_SHARED") or ROOT.parent / "shared" / "data")
SIDES = ("reference", "ours")
MODE, SEED = "response_all", 0
Side = tuple[Callable[[int], float], Callable[[Any], int]]  # do step n and return its loss; positions that a step fills


# As in the released settings (indices 20 to 30 of 32), the last block is beyond the last target.
SIZES = {
    "small": Size(32_000, 256, 688, 8, 4, 2, 5, 2, 4, 1, "float32"),
    "8b": Size(128_256, 4096, 14_336, 32, 32, 8, 20, 11, 4, 4, "bfloat16"),
}


def main() -> None:
    """Run both sides, print the figures and add them to `bench/latest.json`."""
    asked = arguments()
    if asked.child:
        print(json.dumps(run_side(asked)))
        return
    figures = measure(asked)
    for name, value in figures.items():
        print(f"{name:40} {value}")
    keep(figures, forget=["repbend_skipped"])


def arguments() -> argparse.Namespace:
    """The command line; `--child` and `--rows` are how this file calls itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help=f"folder with {ANSWERS} and {CHATS} (REBEND_SHARED)")
    parser.add_argument("--answers", choices=["hh", "chat"], default="hh", help="safe and unsafe rows: short or long")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=3, help="first steps whose time does not count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--attention", default="sdpa", help="ours alone: sdpa, or flash_attention_2 where installed")
    parser.add_argument("--peak-tflops", type=float, help="dense peak of the device, for the utilisation; H100: 989")
    parser.add_argument("--only", choices=SIDES, help="run one side, print its figures and write nothing")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Figures of both sides, or the reason why there are none."""
    missing = [name for name in (ANSWERS, CHATS) if not (asked.data / name).exists()]
    if missing:
        return {"repbend_skipped": f"{asked.data} has no {' and no '.join(missing)}; set REBEND_SHARED"}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        rows.write_text(json.dumps(tokenised(asked.data, asked.answers)))
        sides = {side: in_child(side, rows, asked) for side in SIDES if asked.only in (None, side)}
    if asked.only:
        print(json.dumps(sides[asked.only], indent=2))
        sys.exit()
    return compared(sides["reference"], sides["ours"], asked)


def compared(reference: dict[str, Any], ours: dict[str, Any], asked: argparse.Namespace) -> dict[str, Any]:
    """The figures that are kept; a run that is not the default one has a name of its own."""
    name = "repbend" + ("" if asked.size == "small" else f"_{asked.size}") + ("" if asked.answers == "hh" else "_long")
    apart = [abs(a - b) for a, b in zip(reference["losses"], ours["losses"], strict=True)]
    figures = {
        "speedup": round(reference["step_s"] / ours["step_s"], 2),
        "memory_ratio": round(ours["peak_mib"] / reference["peak_mib"], 3),
        "max_loss_difference": float(f"{max(apart):.3g}"),
        "last_loss": float(f"{ours['losses'][-1]:.4g}"),
    }
    for side, found in (("reference", reference), ("ours", ours)):
        shown = ("step_s", "step_cpu_s", "peak_mib", "tokens_per_s", "padding_share", "tflops", "mfu")
        figures |= {f"{side}_{key}": found[key] for key in shown if found.get(key) is not None}
    return {f"{name}_{key}": value for key, value in figures.items()}


def in_child(side: str, rows: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Run one side in a process of its own and take its last line."""
    given = ["size", "device", "steps", "warm_up", "threads", "lr", "attention"]
    given += ["peak_tflops"] if asked.peak_tflops else []
    options = [part for key in given for part in (f"--{key.replace('_', '-')}", str(getattr(asked, key)))]
    command = [sys.executable, __file__, "--child", side, "--rows", str(rows), *options]
    threads = str(asked.threads)
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )
    if done.returncode != 0:
        raise SystemExit(f"{side} failed with exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def run_side(asked: argparse.Namespace) -> dict[str, Any]:
    """Train so many steps; seconds of a step, peak memory above what the loaded model takes, losses, tokens."""
    import torch

    from rebend.repbend.examples import TrainingExample, TrainingExamples

    torch.set_num_threads(asked.threads)
    size = SIZES[asked.size]
    plain = json.loads(asked.rows.read_text())
    read = {name: [TrainingExample(*row) for row in plain[name]] for name in ("safe", "unsafe", "retain")}
    data = TrainingExamples(
        **read,
        pairs=[(TrainingExample(*safe), TrainingExample(*unsafe)) for safe, unsafe in plain["pairs"]],
        left_out={},
    )
    step, slots = (reference_side if asked.child == "reference" else our_side)(size, asked, data)
    memory = Memory(asked.device)
    seconds, cpu_seconds, losses = [], [], []
    for number in range(asked.steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        losses.append(step(number))
        if asked.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
        print(f"{asked.child} step {number + 1}: {seconds[-1]:.2f} s, loss {losses[-1]:.6f}", file=sys.stderr)
    rows = [data.step(number, size.micro_batch * size.accumulation, SEED) for number in range(asked.steps)]
    timed = slice(asked.warm_up, None)
    step_s = statistics.median(seconds[timed])
    real = [sum(len(row.tokens) for group in grouped(one) for row in group) for one in rows]
    work = sum(needed_flops(one, size) for one in rows[timed]) / sum(seconds[timed])
    return {
        "step_s": round(step_s, 3),
        "step_cpu_s": round(statistics.median(cpu_seconds[timed]), 3),  # all threads; steadier on a busy machine
        "peak_mib": round(memory.peak_mib(), 1),
        "baseline_mib": round(memory.baseline, 1),
        "tokens_per_s": round(sum(real[timed]) / sum(seconds[timed]), 1),
        "padding_share": round(1 - sum(real) / sum(map(slots, rows)), 3),
        "tflops": round(work / 1e12, 4),
        "mfu": round(work / 1e12 / asked.peak_tflops, 3) if asked.peak_tflops else None,
        "losses": losses,
    }


def policy(size: Size, device: str, attention: str = "sdpa") -> Any:
    """A Llama of random weights, the same for both sides."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rebend.models.loading import Policy

    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.between,
        num_hidden_layers=size.n_layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=1024,
        initializer_range=0.8 / size.hidden**0.5,  # states and logits of about the size of a trained model's
        dtype=size.dtype,
        attn_implementation=attention,
    )
    torch.manual_seed(SEED)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, size.dtype))
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return Policy(model.eval(), None, "random weights")


def settings(size: Size, asked: argparse.Namespace) -> Any:
    """The published settings at this size, without dropout."""
    from rebend.config.adapters import RepBendBlock

    return RepBendBlock(
        method="repbend",
        examples="hh",
        paired_examples="hh",
        retain_chats="chat",
        target_layer_start_idx=size.first_target,
        layers_window_size=size.n_targets,
        batch_size=size.micro_batch * size.accumulation,
        micro_batch=size.micro_batch,
        max_step=asked.steps,
        lr=asked.lr,
        lora_r=LORA_R,
        lora_dropout=0.0,
        loss_mode=MODE,
        seed=SEED,
    )


def our_side(size: Size, asked: argparse.Namespace, data: Any) -> Side:
    """rebend's trainer."""
    import torch

    from rebend.repbend.forward import make_batches
    from rebend.repbend.objective import StepInfo, packs
    from rebend.repbend.train import AdapterTrainer

    trainer = AdapterTrainer(policy(size, asked.device, asked.attention), settings(size, asked), data)

    def step(number: int) -> float:
        trainer.step()
        return trainer.metrics[-1]["total"]

    def slots(rows: Any) -> int:
        cpu, packed = torch.device("cpu"), packs(trainer.engine.model.get_base_model())
        probes = [
            trainer.objective.texts(group, StepInfo(0, asked.steps, 1)) for group in rows.groups(size.micro_batch)
        ]
        return sum(part.tokens.numel() for group in probes for part in make_batches(group, cpu, packed=packed))

    return step, slots


def reference_side(size: Size, asked: argparse.Namespace, data: Any) -> Side:
    """The released algorithm on the same adapter."""
    import torch
    from reference.repbend import ReferenceSettings, ReferenceTrainer

    from rebend.models.layers import target_indices
    from rebend.models.lora import add_adapter

    targets = target_indices(size.first_target, size.n_targets, size.n_layers)
    base = policy(size, asked.device)
    torch.manual_seed(SEED)
    model = add_adapter(base, settings(size, asked), list(range(targets[-1] + 1)))
    told = ReferenceSettings(keep_layers=list(range(size.n_layers + 1)), push_layers=targets, pad_token=0)
    trainer = ReferenceTrainer(model, told, asked.lr)

    def step(number: int) -> float:
        rows = data.step(number, size.micro_batch * size.accumulation, SEED)
        return trainer.step(list(rows.groups(size.micro_batch)))["total"]

    return step, lambda rows: 1024 * sum(map(len, grouped(rows)))


if __name__ == "__main__":
    main()
