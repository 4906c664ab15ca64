"""Training loop: an adapter on a frozen model, with the objective of its method."""

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

from rebend.config.adapters import ADAPTERS, TrainedAdapter
from rebend.errors import ModelError
from rebend.io.checkpoints import Checkpoints
from rebend.io.files import whole_directory, write_json, write_parquet
from rebend.io.memory import memory_advice
from rebend.io.progress import progress
from rebend.io.registry import load_code
from rebend.models.adapter_files import ADAPTER_FILE
from rebend.models.layers import transform_blocks
from rebend.models.loading import Policy, load_policy
from rebend.models.lora import add_adapter, add_frozen_adapter, write_adapter
from rebend.repbend.engine import Engine, Moments, PlainEngine
from rebend.repbend.examples import StepExamples, TrainingExamples, load_training_examples
from rebend.repbend.objective import REINFORCED, Objective, StepInfo

_MEMORY_ADVICE = (
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
    reinforced: str | Path | None = None,
) -> dict[str, Any]:
    """Train an adapter on the model folder `base` and write it, with its metrics, to the folder `out`.

    `tables` are examples, paired examples (both schema SAFETY) and retain chats (CHAT). The base runs in `dtype`, the
    adapter is float32. `out` gets PEFT's layout (`adapter_config.json`, `adapter_model.safetensors`),
    `metrics.parquet` (see `metrics_schema`; a row per step) and `adapter.json` (base model and settings). A killed
    training resumes from the last of `checkpoints`; on a CPU it ends in the same bytes. With `zero`, DeepSpeed's
    configuration, this process is one of several ranks that a launcher started, and rank 0 writes. `reinforced` is the
    folder of the frozen adapter that a method compares with (WHP).

    Returns facts for the record. Raises `ConfigError` for layers that the model does not have, `DataError` for data
    with one class only, `ModelError` if the loss is no finite number.
    """
    with _ranks(zero) as device:
        policy = load_policy(base, dtype, device, bits=settings.base_bits)
        reading = objective_class(settings).reading(settings)
        examples = load_training_examples(policy.tokenizer, *tables, settings.max_length, reading)
        devices = [policy.device] if policy.device.type == "cuda" else []
        with torch.random.fork_rng(devices), checkpoints.on_signal(), memory_advice(_MEMORY_ADVICE):
            trainer = AdapterTrainer(policy, settings, examples, checkpoints.load(), zero, reinforced)
            steps = range(trainer.n_done, settings.max_step)
            for _ in progress(steps, "train_adapter", total=settings.max_step, done=trainer.n_done):
                trainer.step()
                checkpoints.after_step(trainer.state, any_rank=trainer.engine.any, writes=trainer.engine.rank == 0)
        trainer.write(Path(out), base_name=Path(base).name, dtype=dtype)
    return {
        "base_fingerprint": policy.fingerprint,
        "trainable_parameters": trainer.n_weights,
        "left_out": examples.left_out,
        "last": trainer.metrics[-1],
    }


def objective_class(settings: TrainedAdapter) -> type[Objective[Any]]:
    """Return the class that the registry names for the method of a block."""
    objective: type[Objective[Any]] = load_code(ADAPTERS[settings.method].code)
    return objective


def metrics_schema(term_names: tuple[str, ...]) -> pa.Schema:
    """Return the columns of `metrics.parquet`: values before the step's update."""
    return pa.schema(
        [
            ("step", pa.int32()),  # from 1
            *((name, pa.float64()) for name in term_names),  # the method's terms, without weight and sign
            ("total", pa.float64()),  # the loss
            ("grad_norm", pa.float64()),  # Euclidean norm over all adapter weights; not clipped, as published
            ("lr", pa.float64()),
        ]
    )


class AdapterTrainer:
    """The adapted model in its engine, its objective, and the metrics of the `n_done` finished steps.

    `state` is the state saved by an earlier attempt, `zero` DeepSpeed's configuration if this process is one of its
    ranks, `reinforced` the folder of a second, frozen adapter.
    """

    def __init__(
        self,
        policy: Policy,
        settings: TrainedAdapter,
        examples: TrainingExamples,
        state: Mapping[str, Any] | None = None,
        zero: Mapping[str, Any] | None = None,
        reinforced: str | Path | None = None,
    ) -> None:
        self.settings = settings
        self.examples = examples
        self.base_fingerprint = policy.fingerprint
        self.objective = objective_class(settings)(settings, examples, policy.n_layers)
        torch.manual_seed(settings.seed)
        blocks = transform_blocks(settings.transform_layers, settings.last_target(), policy.n_layers)
        model = add_adapter(policy, settings, blocks)
        if reinforced is not None:
            add_frozen_adapter(model, reinforced, REINFORCED)
        if settings.gradient_checkpointing:
            causal: Any = model.get_base_model()
            causal.gradient_checkpointing_enable({"use_reentrant": False})
        self.n_weights = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        self.metrics: list[dict[str, float]] = list(state["metrics"]) if state else []
        if state:
            set_peft_model_state_dict(model, state["adapter"])
        self.engine = _engine(model, settings, state["moments"] if state else None, zero)

    @property
    def n_done(self) -> int:
        """Number of finished steps."""
        return len(self.metrics)

    def step(self) -> None:
        """Do one optimiser step. Examples and dropout depend on seed, step and group only.

        Raises `ModelError` if the loss or the gradient is no finite number.
        """
        settings = self.settings
        step_examples = self.examples.step(self.n_done, settings.batch_size, settings.seed)
        values = self.gradients(step_examples)
        values["grad_norm"] = self.engine.update()
        if not all(map(math.isfinite, values.values())):
            raise ModelError(
                f"step {self.n_done + 1}: loss or gradient is not a finite number ({values}); training stopped, and "
                f"the checkpoint before this step is kept. Rows of the step: {', '.join(step_examples.ids())}. "
                "A lower lr, a push_limit, or dtype float32 or bfloat16 instead of float16 may help."
            )
        self.metrics.append({"step": self.n_done + 1, **values, "lr": settings.lr})

    def gradients(self, step_examples: StepExamples) -> dict[str, float]:
        """Add the gradient of a step's loss to the adapter's weights; return the terms and the loss.

        The loss is the mean over the step's groups. Each rank computes every `ranks`-th group.
        """
        settings, size = self.settings, self.settings.batch_size // self.settings.n_groups
        names = (*self.objective.term_names, "total")
        values = torch.zeros(len(names), dtype=torch.float64, device=self.engine.model.device)
        for number, group in enumerate(step_examples.groups(size)):
            if number % self.engine.ranks != self.engine.rank:
                continue
            torch.manual_seed((settings.seed * 1_000_003 + self.n_done + 1) * settings.n_groups + number)
            n_items = self.n_done * settings.batch_size + (number + 1) * size
            info = StepInfo(self.n_done, settings.max_step, n_items)
            compute = partial(self._loss, group=group, info=info)
            values += self.engine.accumulate(compute, groups=settings.n_groups) / settings.n_groups
        return dict(zip(names, self.engine.total(values).tolist(), strict=True))

    def _loss(self, model: PeftModel, group: StepExamples, info: StepInfo) -> tuple[Tensor, Tensor]:
        """Return the loss of one group with its graph, and the values of its terms and of itself."""
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.settings.mixed_precision is not None):
            loss = self.objective.loss(model, group, info)
        terms = [loss.terms[name].detach() for name in self.objective.term_names]
        return loss.total, torch.stack([*terms, loss.total.detach()]).double()

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, independent of the number of ranks."""
        return {**self.engine.state(), "metrics": self.metrics}

    def write(self, out: Path, *, base_name: str, dtype: str) -> None:
        """Write adapter, metrics, base model and settings as one folder. All ranks call this; rank 0 writes."""
        weights = self.engine.state()["adapter"]
        if self.engine.rank:
            return
        with whole_directory(out) as folder:
            write_adapter(self.engine.model, weights, folder, base_name)
            metrics = pa.Table.from_pylist(self.metrics, metrics_schema(self.objective.term_names))
            write_parquet(folder / "metrics.parquet", metrics)
            facts = {"base": base_name, "base_fingerprint": self.base_fingerprint, "dtype": dtype}
            write_json(folder / ADAPTER_FILE, {**facts, "settings": self.settings.model_dump()})


def _ranks(zero: Mapping[str, Any] | None) -> AbstractContextManager[torch.device | None]:
    """Yield this rank's device; None (the best device) if this process trains alone."""
    if zero is None:
        return nullcontext()
    from rebend.repbend.deepspeed_engine import among_ranks

    return among_ranks()


def _engine(
    model: PeftModel, settings: TrainedAdapter, moments: Moments | None, zero: Mapping[str, Any] | None
) -> Engine:
    """Return the engine of one process, or with `zero` that of one DeepSpeed rank."""
    if zero is None:
        return PlainEngine(model, settings.lr, moments)
    from rebend.repbend.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(model, settings.lr, settings.n_groups, zero, moments)
