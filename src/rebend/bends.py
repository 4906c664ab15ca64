"""Training a bend: RepBend (arXiv:2504.01550) as a LoRA adapter on a frozen model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from peft import PeftModel, set_peft_model_state_dict
from torch import Tensor

from rebend.adapters import adapter_weights, add_adapter, reference_pass, write_adapter
from rebend.bend_batches import BendData, StepRows, batches, load_bend_data
from rebend.bend_losses import Terms, Weights, bend_loss, gather_unsafe, hold_retain, keep_safe, push_unsafe
from rebend.bend_passes import Layers, run_pass
from rebend.checkpoints import Checkpoints
from rebend.config.blocks import BendBlock
from rebend.errors import ModelError
from rebend.layers import target_indices, transform_blocks
from rebend.models import Policy, load_policy
from rebend.progress import progress
from rebend.storage import whole_directory, write_json, write_parquet

METRICS = pa.schema(
    [
        ("step", pa.int32()),  # from 1; the terms are those before the step's update
        ("keep", pa.float64()),  # the four terms without weight and sign
        ("push", pa.float64()),
        ("gather", pa.float64()),
        ("hold", pa.float64()),
        ("total", pa.float64()),  # the loss: weighted, push subtracted
        ("grad_norm", pa.float64()),  # Euclidean norm over all adapter weights; not clipped, as published
        ("lr", pa.float64()),
    ]
)
BEND_FILE = "bend.json"


def train_bend(
    base: str | Path,
    dtype: str,
    settings: BendBlock,
    tables: tuple[pa.Table, pa.Table, pa.Table],
    out: str | Path,
    checkpoints: Checkpoints,
) -> dict[str, Any]:
    """Train an adapter on the model folder `base` and write it, with its metrics, to the folder `out`.

    `tables` are samples, pairs (both schema SAFETY) and retain (CHAT). The base runs in `dtype`, the adapter is
    float32. `out` gets PEFT's layout (`adapter_config.json`, `adapter_model.safetensors`), `metrics.parquet`
    (METRICS, a row per step) and `bend.json` (what it was trained on and with). Killed at any step, it goes on from
    the last of `checkpoints`, on CPU to the same bytes. Returns facts for the record.
    Raises `ConfigError` for layers that the model lacks, `DataError` for data with one class only, `ModelError`
    if the loss is no longer a number.
    """
    policy = load_policy(base, dtype)
    data = load_bend_data(policy.tokenizer, *tables, max_length=settings.max_length)
    devices = [policy.device] if policy.device.type == "cuda" else []
    with torch.random.fork_rng(devices), checkpoints.on_signal():
        trainer = BendTrainer(policy, settings, data)
        state = checkpoints.load()
        if state is not None:
            trainer.restore(state)
        for _ in progress(
            range(trainer.done, settings.max_step), "train_bend", total=settings.max_step, done=trainer.done
        ):
            trainer.step()
            checkpoints.after_step(trainer.state)
    trainer.write(Path(out), base_name=Path(base).name, dtype=dtype)
    return {
        "base_fingerprint": policy.fingerprint,
        "trainable_parameters": sum(weight.numel() for weight in trainer.weights),
        "left_out": data.left_out,
        "last": trainer.metrics[-1],
    }


class BendTrainer:
    """The adapted model, its optimiser, and the metrics of the steps that are `done`."""

    def __init__(self, policy: Policy, settings: BendBlock, data: BendData) -> None:
        self.settings = settings
        self.data = data
        self.base_fingerprint = policy.fingerprint
        targets = target_indices(settings.target_layer_start_idx, settings.layers_window_size, policy.n_layers)
        everything = list(range(policy.n_layers + 1))  # the embeddings too, as published: they can't move
        self.layers = Layers(keep=everything if settings.alpha_mode == "all" else targets, push=targets)
        torch.manual_seed(settings.seed)
        self.model = add_adapter(
            policy, settings, transform_blocks(settings.transform_layers, targets, policy.n_layers)
        )
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=settings.lr, weight_decay=0.0)
        self.metrics: list[dict[str, float]] = []

    @property
    def done(self) -> int:
        """Number of finished steps."""
        return len(self.metrics)

    def step(self) -> None:
        """Do one optimiser step. Rows and dropout are functions of seed and step number."""
        settings = self.settings
        rows = self.data.step(self.done, settings.batch_size, settings.loss_mode, settings.seed)
        torch.manual_seed(settings.seed * 1_000_003 + self.done + 1)
        self.optimizer.zero_grad()
        terms, total = step_gradients(self.model, rows, self.layers, settings)
        grad_norm = torch.nn.utils.get_total_norm([weight.grad for weight in self.weights if weight.grad is not None])
        names = ("keep", "push", "gather", "hold", "total", "grad_norm")
        values = dict(zip(names, torch.stack([*terms, total, grad_norm.to(total)]).tolist(), strict=True))
        if not all(map(math.isfinite, values.values())):
            raise ModelError(
                f"step {self.done + 1}: loss or gradient is not a finite number ({values}); training stopped before "
                f"this step's update. Rows of the step: {', '.join(rows.ids())}. "
                "A lower lr, a push_limit, or dtype float32 or bfloat16 instead of float16 may help."
            )
        self.optimizer.step()
        self.metrics.append({"step": self.done + 1, **values, "lr": settings.lr})

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "adapter": adapter_weights(self.model),
            "optimizer": self.optimizer.state_dict(),
            "metrics": self.metrics,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a `state`."""
        set_peft_model_state_dict(self.model, state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.metrics = list(state["metrics"])

    def write(self, out: Path, *, base_name: str, dtype: str) -> None:
        """Write adapter, metrics and what they come from as one folder."""
        with whole_directory(out) as folder:
            write_adapter(self.model, folder, base_name)
            write_parquet(folder / "metrics.parquet", pa.Table.from_pylist(self.metrics, METRICS))
            facts = {"base": base_name, "base_fingerprint": self.base_fingerprint, "dtype": dtype}
            write_json(folder / BEND_FILE, {**facts, "settings": self.settings.model_dump()})


def step_gradients(model: PeftModel, rows: StepRows, layers: Layers, settings: BendBlock) -> tuple[Terms, Tensor]:
    """Compute terms and loss on one step's rows and put the loss's gradient on the adapter's weights.

    One reference pass over all groups (adapter off, eval mode, no gradient), then one adapted pass in train
    mode (dropout on) and one backward pass.
    """
    parts = batches(rows, settings.loss_mode, model.device)
    causal = model.get_base_model()
    with reference_pass(model):
        before = run_pass(causal, parts, layers)
    model.train()
    after = run_pass(causal, parts, layers)
    terms = Terms(
        keep=keep_safe(after.safe, before.safe),
        push=push_unsafe(after.unsafe, before.unsafe, settings.push_limit),
        gather=gather_unsafe(after.ends),
        hold=hold_retain(after.logits, before.logits, len(rows.retain), settings.kl_temperature, settings.kl_reduction),
    )
    total = bend_loss(terms, Weights(settings.alpha, settings.beta, settings.gamma, settings.epsilon))
    total.backward()
    return Terms(*(term.detach() for term in terms)), total.detach()
