"""Compare RepBend's released algorithm (`bench/reference/repbend.py`) with rebend's trainer.

Both have the same model, adapter, rows, order and learning rate, no dropout, and a separate process, for the peak
memory. The model has random weights; the rows are real dialogues, tokenised here.

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
Side = tuple[
    Callable[[int], float], Callable[[Any], int]
]  # does step n and returns its loss; number of positions in a step's batches


# As in the released settings (indices 20 to 30 of 32), the last block is beyond the last target.
SIZES = {
    "small": Size(32_000, 256, 688, 8, 4, 2, 5, 2, 4, 1, "float32"),
    "8b": Size(128_256, 4096, 14_336, 32, 32, 8, 20, 11, 4, 4, "bfloat16"),
}


def main() -> None:
    """Run both sides, print the figures and add them to `bench/latest.json`."""
    arguments = parse_arguments()
    if arguments.child:
        print(json.dumps(run_side(arguments)))
        return
    figures = measure(arguments)
    for name, value in figures.items():
        print(f"{name:40} {value}")
    keep(figures, forget=["repbend_skipped"])


def parse_arguments() -> argparse.Namespace:
    """Parse the command line. `--child` and `--rows` are for the child processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help=f"folder with {ANSWERS} and {CHATS} (REBEND_SHARED)")
    parser.add_argument("--answers", choices=["hh", "chat"], default="hh", help="safe and unsafe rows: short or long")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=3, help="first steps whose time does not count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument(
        "--attention", default="sdpa", help="of rebend's side: sdpa, or flash_attention_2 where installed"
    )
    parser.add_argument("--peak-tflops", type=float, help="dense peak of the device, for the utilisation; H100: 989")
    parser.add_argument("--only", choices=SIDES, help="run one side, print its figures and write nothing")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of both sides, or the reason why there are none."""
    missing = [name for name in (ANSWERS, CHATS) if not (arguments.data / name).exists()]
    if missing:
        return {"repbend_skipped": f"{arguments.data} has no {' and no '.join(missing)}; set REBEND_SHARED"}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        rows.write_text(json.dumps(tokenised(arguments.data, arguments.answers)), encoding="utf-8")
        sides = {side: in_child(side, rows, arguments) for side in SIDES if arguments.only in (None, side)}
    if arguments.only:
        print(json.dumps(sides[arguments.only], indent=2))
        sys.exit()
    return compared(sides["reference"], sides["ours"], arguments)


def compared(reference: dict[str, Any], ours: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures for `bench/latest.json`; their prefix names size and answers unless they are the default."""
    name = (
        "repbend"
        + ("" if arguments.size == "small" else f"_{arguments.size}")
        + ("" if arguments.answers == "hh" else "_long")
    )
    differences = [abs(a - b) for a, b in zip(reference["losses"], ours["losses"], strict=True)]
    figures = {
        "speedup": round(reference["step_s"] / ours["step_s"], 2),
        "memory_ratio": round(ours["peak_mib"] / reference["peak_mib"], 3),
        "max_loss_difference": float(f"{max(differences):.3g}"),
        "last_loss": float(f"{ours['losses'][-1]:.4g}"),
    }
    for side, results in (("reference", reference), ("ours", ours)):
        keys = ("step_s", "step_cpu_s", "peak_mib", "tokens_per_s", "padding_share", "tflops", "mfu")
        figures |= {f"{side}_{key}": results[key] for key in keys if results.get(key) is not None}
    return {f"{name}_{key}": value for key, value in figures.items()}


def in_child(side: str, rows: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one side in a child process; return the JSON of its last line."""
    names = ["size", "device", "steps", "warm_up", "threads", "lr", "attention"]
    names += ["peak_tflops"] if arguments.peak_tflops else []
    options = [part for key in names for part in (f"--{key.replace('_', '-')}", str(getattr(arguments, key)))]
    command = [sys.executable, __file__, "--child", side, "--rows", str(rows), *options]
    threads = str(arguments.threads)
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )
    if done.returncode != 0:
        raise SystemExit(f"{side} failed with exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def run_side(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train; return seconds per step, peak memory above the loaded model, losses and tokens per second."""
    import torch

    from rebend.repbend.examples import TrainingExample, TrainingExamples

    torch.set_num_threads(arguments.threads)
    size = SIZES[arguments.size]
    plain = json.loads(arguments.rows.read_text(encoding="utf-8"))
    read = {name: [TrainingExample(*row) for row in plain[name]] for name in ("safe", "unsafe", "retain")}
    data = TrainingExamples(
        **read,
        pairs=[(TrainingExample(*safe), TrainingExample(*unsafe)) for safe, unsafe in plain["pairs"]],
        left_out={},
    )
    step, slots = (reference_side if arguments.child == "reference" else our_side)(size, arguments, data)
    memory = Memory(arguments.device)
    seconds, cpu_seconds, losses = [], [], []
    for number in range(arguments.steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        losses.append(step(number))
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
        print(f"{arguments.child} step {number + 1}: {seconds[-1]:.2f} s, loss {losses[-1]:.6f}", file=sys.stderr)
    rows = [data.step(number, size.micro_batch * size.accumulation, SEED) for number in range(arguments.steps)]
    timed = slice(arguments.warm_up, None)
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
        "mfu": round(work / 1e12 / arguments.peak_tflops, 3) if arguments.peak_tflops else None,
        "losses": losses,
    }


def policy(size: Size, device: str, attention: str = "sdpa") -> Any:
    """Return a Llama with random weights, the same for both sides."""
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


def settings(size: Size, arguments: argparse.Namespace) -> Any:
    """Return the published settings at this size, without dropout."""
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
        max_step=arguments.steps,
        lr=arguments.lr,
        lora_r=LORA_R,
        lora_dropout=0.0,
        loss_mode=MODE,
        seed=SEED,
    )


def our_side(size: Size, arguments: argparse.Namespace, data: Any) -> Side:
    """Return the side of rebend's trainer."""
    import torch

    from rebend.repbend.forward import make_batches
    from rebend.repbend.objective import StepInfo, packs
    from rebend.repbend.train import AdapterTrainer

    trainer = AdapterTrainer(policy(size, arguments.device, arguments.attention), settings(size, arguments), data)

    def step(number: int) -> float:
        trainer.step()
        return trainer.metrics[-1]["total"]

    def slots(rows: Any) -> int:
        cpu, packed = torch.device("cpu"), packs(trainer.engine.model.get_base_model())
        groups = [
            trainer.objective.texts(group, StepInfo(0, arguments.steps, 1)) for group in rows.groups(size.micro_batch)
        ]
        return sum(part.tokens.numel() for group in groups for part in make_batches(group, cpu, packed=packed))

    return step, slots


def reference_side(size: Size, arguments: argparse.Namespace, data: Any) -> Side:
    """Return the side of the released algorithm, with the same adapter."""
    import torch
    from reference.repbend import ReferenceSettings, ReferenceTrainer

    from rebend.models.layers import target_indices
    from rebend.models.lora import add_adapter

    targets = target_indices(size.first_target, size.n_targets, size.n_layers)
    base = policy(size, arguments.device)
    torch.manual_seed(SEED)
    model = add_adapter(base, settings(size, arguments), list(range(targets[-1] + 1)))
    reference = ReferenceSettings(keep_layers=list(range(size.n_layers + 1)), push_layers=targets, pad_token=0)
    trainer = ReferenceTrainer(model, reference, arguments.lr)

    def step(number: int) -> float:
        rows = data.step(number, size.micro_batch * size.accumulation, SEED)
        return trainer.step(list(rows.groups(size.micro_batch)))["total"]

    return step, lambda rows: 1024 * sum(map(len, grouped(rows)))


if __name__ == "__main__":
    main()
