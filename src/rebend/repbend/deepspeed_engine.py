"""The engine for several ranks: DeepSpeed ZeRO-1, 2 or 3 under any launcher that sets torch's environment variables.

The groups of a step are divided among the ranks, and DeepSpeed averages gradients over groups and ranks. So loss and
update are those of one process, except for the order of additions. Checkpoints hold the whole adapter and all moments,
so a training can resume with another number of ranks or another stage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_optimizer_state, safe_set_full_optimizer_state
from peft import PeftModel
from torch import Tensor, nn

from rebend.errors import ConfigError
from rebend.models.lockstep import lockstep
from rebend.models.lora import adapter_weights
from rebend.repbend.engine import Compute, Moments, make_optimizer

_MOMENTS = ("exp_avg", "exp_avg_sq")


@contextmanager
def among_ranks() -> Iterator[torch.device]:
    """Join the launcher's process group; leave it at the end of the block. Yields this rank's device.

    After an exception the group is not left: that would wait for the other ranks, which the launcher ends.
    """
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed("nccl" if cuda else "gloo", verbose=False)
    yield torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    torch.distributed.barrier()
    # Gloo's threads must end before the interpreter does: otherwise they may abort a finished process.
    torch.distributed.destroy_process_group()


class _Caller(nn.Module):
    """Runs a computation inside the engine's forward, in which ZeRO-3 gathers the used weights."""

    def __init__(self, model: PeftModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Compute) -> tuple[Tensor, Tensor]:
        """Return a loss and its values."""
        return compute(self.model)


class DeepSpeedEngine:
    """One rank; `config` is DeepSpeed's, without the keys that the block decides.

    Raises `ConfigError` if the groups of a step cannot be divided evenly among the ranks.
    """

    def __init__(
        self, model: PeftModel, lr: float, groups: int, config: Mapping[str, Any], moments: Moments | None = None
    ) -> None:
        self.model = model
        self.rank, self.ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        if groups % self.ranks:
            raise ConfigError(f"the {groups} groups of a step cannot be shared by {self.ranks} ranks")
        fixed = {
            "train_micro_batch_size_per_gpu": 1,  # one group of items
            "gradient_accumulation_steps": groups // self.ranks,
            "gradient_clipping": 0.0,  # DeepSpeed's default clips at 1; the released code does not clip
        }
        self.engine, *_ = deepspeed.initialize(
            model=_Caller(model), optimizer=make_optimizer(model, lr), config={**config, **fixed}
        )
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if moments:
            self._restore(moments)

    def accumulate(self, compute: Compute, *, groups: int) -> Tensor:
        """Add the gradient of one group's loss; DeepSpeed divides by the rank's groups and the number of ranks."""
        with lockstep(self._largest) if self.engine.zero_optimization_stage() == 3 else nullcontext():
            loss, values = self.engine(compute)
        self.engine.backward(loss)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()  # counts the group; `update` changes the weights after the last group
        return values

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over ranks."""
        torch.distributed.all_reduce(values)
        return values

    def update(self) -> float:
        """Do the optimiser's step."""
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return bool(self.total(torch.tensor(float(flag), device=self.engine.device)) > 0)

    def _largest(self, number: int) -> int:
        largest = torch.tensor(number, device=self.engine.device)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        return int(largest)

    def state(self) -> dict[str, Any]:
        """Return the whole adapter and all moments; every rank must call this."""
        step = self._steps()
        moments = {
            name: {key: safe_get_full_optimizer_state(weight, key).cpu().clone() for key in _MOMENTS} | {"step": step}
            for name, weight in self.weights.items()
        }
        with deepspeed.zero.GatheredParameters(list(self.weights.values())):
            return {"adapter": adapter_weights(self.model), "moments": moments}

    def _restore(self, moments: Moments) -> None:
        """Set this rank's part of the moments."""
        zero = self.engine.optimizer
        (step,) = {float(saved["step"]) for saved in moments.values()}
        for flat in self._flat():
            zeros = {key: torch.zeros_like(flat) for key in _MOMENTS}
            zero.optimizer.state[flat] = {"step": torch.tensor(step), **zeros}
        if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):  # stages 1 and 2 connect weights and moments late
            zero._lazy_init_hp_params_optimizer_state()
        for name, saved in moments.items():
            for key in _MOMENTS:
                safe_set_full_optimizer_state(self.weights[name], saved[key].to(self.engine.device), key)

    def _flat(self) -> list[Tensor]:
        """Return the flat tensors that this rank's optimiser updates."""
        zero = self.engine.optimizer
        flat = getattr(zero, "single_partition_of_fp32_groups", None)  # stages 1 and 2
        return list(zero.fp32_partitioned_groups_flat if flat is None else flat)

    def _steps(self) -> Tensor:
        """Return the number of the optimiser's steps."""
        state = self.engine.optimizer.optimizer.state
        return next(state[flat]["step"] for flat in self._flat() if flat in state).detach().cpu().clone()
