"""Training an adapter: an adapter on a frozen model, by whatever objective its block names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from peft import PeftModel, set_peft_model_state_dict
from torch import Tensor

from rebend.config.adapters import TrainedAdapter
from rebend.errors import ModelError
from rebend.io.checkpoints import Checkpoints
from rebend.io.files import whole_directory, write_json, write_parquet
from rebend.io.memory import memory_advice
from rebend.io.progress import progress
from rebend.models.layers import transform_blocks
from rebend.models.loading import Policy, load_policy
from rebend.models.lora import ADAPTER_FILE, add_adapter, write_adapter
from rebend.repbend.engine import Engine, Moments, PlainEngine
from rebend.repbend.examples import StepRows, TrainingExamples, load_training_examples
from rebend.repbend.methods.factory import make_objective
from rebend.repbend.objective import Moment, Objective

_SMALLER = (
    "a smaller micro_batch, gradient_checkpointing: true, a smaller max_length, base_bits: 8 or 4, more ranks with zero"
)


def train_adapter(
    base: str | Path,
    dtype: str,
    settings: TrainedAdapter,
    tables: tuple[pa.Table, pa.Table, pa.Table],
    out: str | Path,
    checkpoints: Checkpoints,
    zero: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train an adapter on the model folder `base` and write it, with its metrics, to the folder `out`.

    `tables` are samples, pairs (both schema SAFETY) and retain (CHAT). The base runs in `dtype`, the adapter is
    float32. `out` gets PEFT's layout (`adapter_config.json`, `adapter_model.safetensors`), `metrics.parquet`
    (see `metrics_schema`; a row per step) and `adapter.json` (what it was trained on and with). Killed at any step,
    it goes on from the last of `checkpoints`, on CPU to the same bytes. With `zero`, DeepSpeed's configuration,
    this is one of several ranks that a launcher has started, and the first of them writes. Returns facts for
    the record. Raises `ConfigError` for layers that the model lacks, `DataError` for data with one class only,
    `ModelError` if the loss is no longer a number.
    """
    with _ranks(zero) as device:
        policy = load_policy(base, dtype, device, bits=settings.base_bits)
        data = load_training_examples(
            policy.tokenizer, *tables, max_length=settings.max_length, ended=settings.ends_answers
        )
        devices = [policy.device] if policy.device.type == "cuda" else []
        with torch.random.fork_rng(devices), checkpoints.on_signal(), memory_advice(_SMALLER):
            trainer = AdapterTrainer(policy, settings, data, checkpoints.load(), zero)
            first = trainer.engine.rank == 0
            for _ in progress(
                range(trainer.done, settings.max_step), "train_adapter", total=settings.max_step, done=trainer.done
            ):
                trainer.step()
                checkpoints.after_step(trainer.state, any_rank=trainer.engine.any, writes=first)
        trainer.write(Path(out), base_name=Path(base).name, dtype=dtype)
    return {
        "base_fingerprint": policy.fingerprint,
        "trainable_parameters": trainer.n_weights,
        "left_out": data.left_out,
        "last": trainer.metrics[-1],
    }


def metrics_schema(terms: tuple[str, ...]) -> pa.Schema:
    """Columns of `metrics.parquet`: values before the step's update."""
    return pa.schema(
        [
            ("step", pa.int32()),  # from 1
            *((name, pa.float64()) for name in terms),  # the method's terms, without weight and sign
            ("total", pa.float64()),  # the loss
            ("grad_norm", pa.float64()),  # Euclidean norm over all adapter weights; not clipped, as published
            ("lr", pa.float64()),
        ]
    )


class AdapterTrainer:
    """The adapted model in its engine, its objective, and the metrics of the steps that are `done`.

    `state` is what an earlier attempt has saved, `zero` DeepSpeed's configuration where this is one of its ranks.
    """

    def __init__(
        self,
        policy: Policy,
        settings: TrainedAdapter,
        data: TrainingExamples,
        state: Mapping[str, Any] | None = None,
        zero: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self.data = data
        self.base_fingerprint = policy.fingerprint
        self.objective: Objective = make_objective(settings, data, policy.n_layers)
        torch.manual_seed(settings.seed)
        blocks = transform_blocks(settings.transform_layers, settings.last_target(), policy.n_layers)
        model = add_adapter(policy, settings, blocks)
        if settings.gradient_checkpointing:
            causal: Any = model.get_base_model()
            causal.gradient_checkpointing_enable({"use_reentrant": False})
        self.n_weights = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        self.metrics: list[dict[str, float]] = list(state["metrics"]) if state else []
        if state:
            set_peft_model_state_dict(model, state["adapter"])
        self.engine = _engine(model, settings, state["moments"] if state else None, zero)

    @property
    def done(self) -> int:
        """Number of finished steps."""
        return len(self.metrics)

    def step(self) -> None:
        """Do one optimiser step. Rows and dropout are functions of seed, step and group."""
        settings = self.settings
        rows = self.data.step(self.done, settings.batch_size, settings.seed)
        values = self.gradients(rows)
        values["grad_norm"] = self.engine.update()
        if not all(map(math.isfinite, values.values())):
            raise ModelError(
                f"step {self.done + 1}: loss or gradient is not a finite number ({values}); training stopped, and the "
                f"checkpoint before this step is kept. Rows of the step: {', '.join(rows.ids())}. "
                "A lower lr, a push_limit, or dtype float32 or bfloat16 instead of float16 may help."
            )
        self.metrics.append({"step": self.done + 1, **values, "lr": settings.lr})

    def gradients(self, rows: StepRows) -> dict[str, float]:
        """Put the gradient of a step's loss on the adapter's weights; return the terms and the loss.

        The loss is the mean over the step's groups. Each rank does every `ranks`-th group.
        """
        settings, size = self.settings, self.settings.batch_size // self.settings.n_groups
        values = torch.zeros(len(self.objective.names) + 1, dtype=torch.float64, device=self.engine.model.device)
        for number, group in enumerate(rows.groups(size)):
            if number % self.engine.ranks != self.engine.rank:
                continue
            torch.manual_seed((settings.seed * 1_000_003 + self.done + 1) * settings.n_groups + number)
            moment = Moment(self.done, settings.max_step, self.done * settings.batch_size + (number + 1) * size)
            compute = partial(self._loss, rows=group, moment=moment)
            values += self.engine.accumulate(compute, groups=settings.n_groups) / settings.n_groups
        return dict(zip((*self.objective.names, "total"), self.engine.total(values).tolist(), strict=True))

    def _loss(self, model: PeftModel, rows: StepRows, moment: Moment) -> tuple[Tensor, Tensor]:
        """The loss of one group, and its terms and itself as values."""
        loss = self.objective.loss(model, rows, moment)
        terms = [loss.terms[name].detach() for name in self.objective.names]
        return loss.total, torch.stack([*terms, loss.total.detach()]).double()

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, whatever the number of ranks."""
        return {**self.engine.state(), "metrics": self.metrics}

    def write(self, out: Path, *, base_name: str, dtype: str) -> None:
        """Write adapter, metrics and what they come from as one folder. All ranks call this; the first writes."""
        weights = self.engine.state()["adapter"]
        if self.engine.rank:
            return
        with whole_directory(out) as folder:
            write_adapter(self.engine.model, weights, folder, base_name)
            metrics = pa.Table.from_pylist(self.metrics, metrics_schema(self.objective.names))
            write_parquet(folder / "metrics.parquet", metrics)
            facts = {"base": base_name, "base_fingerprint": self.base_fingerprint, "dtype": dtype}
            write_json(folder / ADAPTER_FILE, {**facts, "settings": self.settings.model_dump()})


def _ranks(zero: Mapping[str, Any] | None) -> AbstractContextManager[torch.device | None]:
    """This rank's device inside the block; None, for whichever there is, where this process trains alone."""
    if zero is None:
        return nullcontext()
    from rebend.repbend.deepspeed_engine import among_ranks

    return among_ranks()


def _engine(
    model: PeftModel, settings: TrainedAdapter, moments: Moments | None, zero: Mapping[str, Any] | None
) -> Engine:
    if zero is None:
        return PlainEngine(model, settings.lr, moments)
    from rebend.repbend.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(model, settings.lr, settings.n_groups, zero, moments)
