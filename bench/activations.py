"""Compare RE-Control's released extraction and value training (`bench/reference/activations.py`) with rebend's.

Both sides have the same prompts and model, or the same states and rewards. Each runs twice, alternately, in a separate
process; the better run of each counts. The model has random weights and ends a response with a probability
of about 1/64 at each token, at most 128; the prompts are those of HH-RLHF. Then the peak memory of
extraction, labelling and training, with `--few` responses and with ten times as many.

    python bench/activations.py                       # CPU, a small Llama, one thread; 8 minutes
    python bench/activations.py --only memory         # extract_memory_growth alone; also: extract, value, disk

Figures: extract_speedup, value_speedup, extract_memory_growth, and the measurements behind them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from latest import keep
from repbend_cost import Memory

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("REBEND_SHARED") or ROOT.parent / "shared" / "data")
PROMPTS = "hh_rlhf/train.jsonl.gz"
SEED, MAX_NEW, END_SHARE, HELD_SHARE = 0, 128, 64, 0.1
STAGES = ("extract", "label", "train")
PARTS = ("extract", "value", "disk", "memory")
SMALL, SMALL_BLOCKS = 64, 2  # width and blocks where memory is measured: what does not grow is small there too


class Clock:
    """Now, by the wall and by what this process has computed."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()


def main() -> None:
    """Run all parts, print the figures and add them to `bench/latest.json`."""
    arguments = parse_arguments()
    if arguments.child:
        print(json.dumps(CHILDREN[arguments.child](arguments)))
        return
    figures = measure(arguments)
    for name, value in figures.items():
        print(f"{name:40} {value}")
    keep(figures, forget=["extract_skipped"])


def parse_arguments() -> argparse.Namespace:
    """Parse the command line. `--child` and `--folder` are for the child processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help=f"folder with {PROMPTS} (REBEND_SHARED)")
    parser.add_argument("--prompts", type=int, default=192, help="prompts that both sides extract from")
    parser.add_argument("--hidden", type=int, default=256, help="width D of the model")
    parser.add_argument("--blocks", type=int, default=8, help="decoder blocks L of the model")
    parser.add_argument("--responses", type=int, default=2000, help="responses that both sides train on")
    parser.add_argument("--width", type=int, default=512, help="D and H of the value training")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side")
    parser.add_argument("--only", choices=PARTS, help="this part alone")
    parser.add_argument(
        "--few", type=int, default=1200, help="responses of the smaller memory run; the larger has ten times"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", choices=list(CHILDREN), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of all parts, or the reason why there are none."""
    if not (arguments.data / PROMPTS).exists():
        return {"extract_skipped": f"{arguments.data} has no {PROMPTS}; set REBEND_SHARED"}
    parts = (arguments.only,) if arguments.only else PARTS
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        in_child("prepare", folder, arguments)
        for part, unit in (("extract", "tokens_per_s"), ("value", "rows_per_s")):
            if part in parts:
                figures |= compared(part, unit, folder, arguments)
        if "disk" in parts:
            figures |= in_child("disk", folder, arguments)
        if "memory" in parts:
            figures |= growth(folder, arguments)
    return figures


def compared(part: str, unit: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run both sides of a part alternately; return the better run of each, and the ratio of their rates."""
    runs = [
        [in_child(f"{part}_{side}", folder, arguments) for side in ("reference", "ours")]
        for _ in range(arguments.rounds)
    ]
    theirs, ours = (max(side, key=lambda run: run[unit]) for side in zip(*runs, strict=True))
    return {f"{part}_speedup": round(ours[unit] / theirs[unit], 2), **labelled(part, theirs, ours)}


def growth(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the peak memory of each stage with few and with ten times as many responses, and the largest ratio."""
    peaks = {
        stage: [in_child(f"memory_{stage}", folder / size, arguments)["peak_mib"] for size in ("few", "many")]
        for stage in STAGES
    }
    figures: dict[str, Any] = {"extract_memory_growth": round(max(many / few for few, many in peaks.values()), 3)}
    for stage, (few, many) in peaks.items():
        figures |= {f"{stage}_peak_mib": few, f"{stage}_peak_mib_ten_times": many}
    return figures


def labelled(part: str, theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of both sides, with part and side in their names."""
    return {
        f"{part}_{side}_{key}": value
        for side, figures in (("reference", theirs), ("ours", ours))
        for key, value in figures.items()
    }


def in_child(child: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one part in a child process; return the JSON of its last line."""
    names = ("data", "prompts", "hidden", "blocks", "responses", "width", "epochs", "few", "threads")
    options = [part for key in names for part in (f"--{key}", str(getattr(arguments, key)))]
    threads = str(arguments.threads)
    done = subprocess.run(
        [sys.executable, __file__, "--child", child, "--folder", str(folder), *options],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )
    if done.returncode != 0:
        raise SystemExit(f"{child} failed with exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def prepare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the model, reward model, prompts, states and rewards that the other parts read."""
    import pyarrow as pa
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    from rebend.io.files import write_parquet
    from rebend.io.schemas import PROMPTS as SCHEMA
    from rebend.models.tiny_model import train_tokenizer

    texts = list(questions(arguments.data))
    tokenizer = train_tokenizer(texts, 8000)
    for name, width, blocks in (("", arguments.hidden, arguments.blocks), ("small_", SMALL, SMALL_BLOCKS)):
        torch.manual_seed(SEED)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=blocks,
            num_attention_heads=max(2, width // 64),
            max_position_embeddings=2048,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            num_labels=1,
        )
        model = LlamaForCausalLM(config)
        model.generation_config.eos_token_id = list(range(0, len(tokenizer), END_SHARE))
        for network, kind in ((model, "model"), (LlamaForSequenceClassification(config), "reward")):
            network.save_pretrained(arguments.folder / f"{name}{kind}")
            tokenizer.save_pretrained(arguments.folder / f"{name}{kind}")
    for name, count in ((".", arguments.prompts), ("few", arguments.few), ("many", 10 * arguments.few)):
        (arguments.folder / name).mkdir(exist_ok=True)
        rows = [
            {
                "row_id": f"row{i}",
                "messages": [{"role": "user", "content": texts[i % min(len(texts), arguments.few)]}],
                "group": "",
            }
            for i in range(count)
        ]
        write_parquet(arguments.folder / name / "prompts.parquet", pa.Table.from_pylist(rows, SCHEMA))
    write_states(arguments.folder, arguments.responses, arguments.width)
    for name, count in (("few", arguments.few), ("many", 10 * arguments.few)):
        write_states(arguments.folder / name, count, SMALL, padded=False)
    return {}


def questions(data: Path) -> Iterator[str]:
    """Yield each dialogue up to its last answer, if it has fewer than 1,600 characters (about 512 tokens)."""
    with gzip.open(data / PROMPTS, "rt", encoding="utf-8", newline="\n") as lines:
        for line in lines:
            dialogue = json.loads(line)["chosen"]
            text = dialogue[: dialogue.rfind("\n\nAssistant:")].removeprefix("\n\nHuman:").strip()
            if text and len(text) < 1600:
                yield text


def write_states(folder: Path, count: int, width: int, *, padded: bool = True) -> None:
    """Write random states, with a signal of the reward that grows along the response, as a folder and as one tensor."""
    import pyarrow as pa
    import torch

    from rebend.io.files import write_json, write_parquet
    from rebend.io.scores import score_table
    from rebend.recontrol.value_model.activation_store import (
        ACTIVATION_RESPONSES,
        MANIFEST,
        RESPONSES_FILE,
        ShardWriter,
        entry_of,
        state_schema,
    )

    rng = torch.Generator().manual_seed(SEED)
    lengths = torch.empty(count).geometric_(1 / END_SHARE, generator=rng).clamp(1, MAX_NEW).int().tolist()
    rewards = torch.randn(count, generator=rng)
    direction = torch.randn(width, generator=rng) / width**0.5
    out = folder / "activations"
    out.mkdir(parents=True)
    path = out / "states-00000-of-00001.parquet"
    writer = ShardWriter(path, state_schema(width, torch.float16, {}), torch.float16)
    padded_states = torch.zeros(count if padded else 0, MAX_NEW, width)
    for i, n in enumerate(lengths):
        states = torch.randn(n, width, generator=rng)
        states += rewards[i] * direction * torch.linspace(0, 3, n)[:, None]
        writer.add(f"row{i}/0", [0] * n, states)
        if padded:
            padded_states[i, :n] = states.half().float()
    writer.close()
    names = [f"row{i}" for i in range(count)]
    columns = [[f"{name}/0" for name in names], names, ["x"] * count, lengths, ["eos"] * count]
    write_parquet(out / RESPONSES_FILE, pa.table(columns, schema=ACTIVATION_RESPONSES))
    facts = {"fingerprint": "", "layer": "final", "dtype": "float16", "hidden_size": width, "states": "stored"}
    write_json(out / MANIFEST, {**facts, "shards": [entry_of(path)], "responses": entry_of(out / RESPONSES_FILE)})
    write_parquet(folder / "rewards.parquet", score_table([f"{name}/0" for name in names], rewards.tolist()))
    if padded:
        mask = (torch.arange(MAX_NEW) < torch.tensor(lengths)[:, None]).long()
        torch.save({"states": padded_states, "mask": mask, "rewards": rewards}, folder / "padded.pt")


def extract_reference(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return response tokens per second of the released approach, with writing."""
    import torch
    from reference.activations import extract

    from rebend.io.files import read_parquet
    from rebend.models.chat import prompt_text
    from rebend.models.loading import load_policy

    policy = load_policy(arguments.folder / "model")
    ends = policy.model.generation_config.eos_token_id
    rows = read_parquet(arguments.folder / "prompts.parquet").to_pylist()
    texts = [prompt_text(policy.tokenizer, row["messages"]) for row in rows]
    torch.manual_seed(SEED)
    start = Clock()
    path = arguments.folder / "reference.pt"
    tokens = extract(policy.model, policy.tokenizer, texts, ends, path, batch_size=32, max_new_tokens=MAX_NEW)
    return {**rate("tokens", tokens, start), "bytes": path.stat().st_size}


def extract_ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return response tokens per second of rebend, with writing."""
    folder = arguments.folder
    from rebend.models.loading import load_policy
    from rebend.recontrol.value_model.extraction import extract_activations  # noqa: F401  counts as import

    policy = load_policy(folder / "model")
    remove(folder, "shard", "parts")
    start = Clock()
    counts = extracted(policy, folder)
    size = (folder / "shard" / "states-00000-of-00001.parquet").stat().st_size
    return {**rate("tokens", counts["tokens"], start), "bytes": size}


def extracted(policy: Any, folder: Path) -> dict[str, int]:
    """Extract from the folder's prompts into one shard, and write its manifest."""
    from rebend.config.decoding import Decoding
    from rebend.config.value_models import ActivationsBlock
    from rebend.recontrol.value_model.extraction import extract_activations
    from rebend.recontrol.value_model.gathering import ShardFiles, gather_activations

    decoding = Decoding(max_new_tokens=MAX_NEW, temperature=1.0, batch_size=32, seed=SEED)
    settings = ActivationsBlock(dataset="hh", decoding=decoding, prompts_per_chunk=192)
    out = folder / "shard"
    shard = ShardFiles(out / "states-00000-of-00001.parquet", out / "responses-00000-of-00001.parquet")
    counts = extract_activations(policy, folder / "prompts.parquet", settings, 0, shard, folder / "parts")
    gather_activations([shard], out / "manifest.json", out / "responses.parquet", settings)
    return counts


def value_reference(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return token rows per second of the released training, and its last held-out loss."""
    import torch
    from reference.activations import ReferenceNetwork, train

    from rebend.recontrol.value_model.examples import HELD_OUT

    torch.manual_seed(SEED)
    network = ReferenceNetwork(arguments.width, arguments.width)
    data = value_data(arguments.folder)
    held_out = torch.from_numpy(data.sides & HELD_OUT > 0)
    rows = int(data.index.lengths.sum())
    torch.optim.Adam(network.parameters())  # torch's first optimizer takes a second for imports
    start = Clock()
    path = arguments.folder / "padded.pt"
    losses = train(network, path, held_out, lr=1e-3, batch_size=512, epochs=arguments.epochs, seed=SEED)
    return {**rate("rows", rows * arguments.epochs, start), "held_out_loss": losses[-1]}


def value_ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return token rows per second of rebend's training, and its last held-out loss."""
    import torch

    from rebend.recontrol.value_model.train import train_value_model  # noqa: F401  counts as import

    torch.optim.Adam([torch.zeros(1)])
    remove(arguments.folder, "value", "checkpoints")
    rows = int(value_data(arguments.folder).index.lengths.sum())
    start = Clock()
    facts = trained(arguments.folder, arguments.width, arguments.epochs)
    return {**rate("rows", rows * arguments.epochs, start), "held_out_loss": facts["held_out_loss"]}


def value_data(folder: Path) -> Any:
    """Return the responses with their split into training and held-out."""
    from rebend.recontrol.value_model.activation_store import Activations
    from rebend.recontrol.value_model.examples import ValueData
    from rebend.recontrol.value_model.labels import Labels

    labels = Labels.read(folder / "rewards.parquet")
    return ValueData(Activations(folder / "activations"), labels, HELD_SHARE, SEED)


def trained(folder: Path, width: int, epochs: int) -> dict[str, Any]:
    """Train with the released objective on the folder's states."""
    import torch

    from rebend.config.value_models import ValueModelBlock
    from rebend.io.checkpoints import Checkpoints
    from rebend.recontrol.value_model.activation_store import Activations
    from rebend.recontrol.value_model.labels import Labels
    from rebend.recontrol.value_model.train import train_value_model

    settings = ValueModelBlock(
        activations="a",
        reward="r",
        variant="released_code",
        n_layers=3,
        hidden_size=width,
        lr=1e-3,
        epochs=epochs,
        validation_share=HELD_SHARE,
        seed=SEED,
    )
    out = folder / "value"
    out.mkdir()
    labels = Labels.read(folder / "rewards.parquet")
    checkpoints = Checkpoints(folder / "checkpoints")
    return train_value_model(
        Activations(folder / "activations"), labels, settings, out, checkpoints, torch.device("cpu")
    )


def disk(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return MB/s of writing and reading the states as shards, and of the same bytes as a plain file."""
    import torch

    from rebend.recontrol.value_model.activation_store import Activations, ShardWriter, state_schema

    activations = Activations(arguments.folder / "activations")
    groups = [activations.read(group) for group in activations.groups()]
    size = sum(group.states.nbytes for group in groups)
    path, plain = arguments.folder / "disk.parquet", arguments.folder / "disk.bin"
    start = time.perf_counter()
    writer = ShardWriter(path, state_schema(arguments.width, torch.float16, {}), torch.float16)
    for group in groups:
        for name, states in group.responses():
            writer.add(name, [0] * len(states), states)
    writer.close()
    synced(path)
    figures = {"disk_shard_write_mb_s": round(size / 1e6 / (time.perf_counter() - start))}
    start = time.perf_counter()
    with plain.open("wb") as stream:
        for group in groups:
            stream.write(group.states.numpy().data)
    synced(plain)
    figures["disk_plain_write_mb_s"] = round(size / 1e6 / (time.perf_counter() - start))
    for name, read in (
        ("shard", lambda: sum(activations.states(g).nbytes for g in activations.groups())),
        ("plain", lambda: read_plain(plain)),
    ):
        read()  # fills the page cache: both reads are measured from it
        start = time.perf_counter()
        read()
        figures[f"disk_{name}_read_mb_s"] = round(size / 1e6 / (time.perf_counter() - start))
    return figures


def synced(path: Path) -> None:
    """Flush a file to disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def read_plain(path: Path) -> int:
    """Read a file in pieces of the size of a row group; return the number of bytes."""
    total = 0
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(2**22):
            total += len(piece)
    return total


def memory_extract(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the peak memory of an extraction above imports and model."""
    from rebend.models.loading import load_policy
    from rebend.recontrol.value_model.extraction import extract_activations  # noqa: F401  counts as import

    policy = load_policy(arguments.folder.parent / "small_model")
    return peak(lambda: extracted(policy, arguments.folder))


def memory_label(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the peak memory of labelling the responses of `memory_extract`, above imports and model."""
    from rebend.config.rewards import RewardBlock
    from rebend.io.chunks import ChunkStore
    from rebend.models.rewards.model import load_reward_model
    from rebend.recontrol.value_model.reward_labels import label_rewards

    model = load_reward_model(arguments.folder.parent / "small_reward", RewardBlock(local="x", batch_size=32))
    paths = (
        arguments.folder / "prompts.parquet",
        arguments.folder / "shard" / "responses.parquet",
        arguments.folder / "labels.parquet",
    )
    return peak(lambda: label_rewards(model, *paths, ChunkStore(None)))


def memory_train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the peak memory of value training above the imports."""
    from rebend.recontrol.value_model.train import train_value_model  # noqa: F401  counts as import

    return peak(lambda: trained(arguments.folder, SMALL, 2))


def remove(folder: Path, *names: str) -> None:
    """Delete folders of an earlier run."""
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)


def peak(work: Callable[[], Any]) -> dict[str, Any]:
    """Return the peak memory of `work` above the memory in use before, MiB."""
    memory = Memory("cpu")
    work()
    return {"peak_mib": round(memory.peak_mib(), 1)}


def rate(what: str, count: int, start: Clock) -> dict[str, Any]:
    """Return CPU seconds since `start`, `count` per CPU second, and wall seconds, which vary more."""
    seconds, wall = time.process_time() - start.cpu, time.perf_counter() - start.wall
    return {f"{what}_per_s": round(count / seconds, 1), what: count, "cpu_s": round(seconds, 2), "s": round(wall, 2)}


CHILDREN: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "prepare": prepare,
    "extract_reference": extract_reference,
    "extract_ours": extract_ours,
    "value_reference": value_reference,
    "value_ours": value_ours,
    "disk": disk,
    **{
        f"memory_{stage}": measure_stage
        for stage, measure_stage in zip(STAGES, (memory_extract, memory_label, memory_train), strict=True)
    },
}

if __name__ == "__main__":
    main()
