"""The engine for several ranks: DeepSpeed ZeRO-1, 2 or 3 under any launcher that sets torch's environment.

A step's groups are shared out over the ranks, and DeepSpeed averages gradients over both, so that loss and
update are those of one process up to the order of additions. Adapter and moments are gathered whole for
checkpoints, so that a training can go on with another number of ranks or another stage.
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
    """Join the process group that the launcher describes, and leave it at the end of the block.

    Gives this rank's device. A block that fails leaves nothing: the launcher ends the other ranks then, and to
    leave in order would be to wait for them.
    """
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed("nccl" if cuda else "gloo", verbose=False)
    yield torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    torch.distributed.barrier()
    # Gloo's threads must be gone before the interpreter is: they would abort a process whose work is done.
    torch.distributed.destroy_process_group()


class _Caller(nn.Module):
    """Runs whatever is given inside the engine's forward, where ZeRO-3 gathers the weights that are used."""

    def __init__(self, model: PeftModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Compute) -> tuple[Tensor, Tensor]:
        """Compute a loss and its values."""
        return compute(self.model)


class DeepSpeedEngine:
    """One of the ranks; `config` is DeepSpeed's, without what the block decides."""

    def __init__(
        self, model: PeftModel, lr: float, groups: int, config: Mapping[str, Any], moments: Moments | None = None
    ) -> None:
        self.model = model
        self.rank, self.ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        if groups % self.ranks:
            raise ConfigError(f"the {groups} groups of a step cannot be shared by {self.ranks} ranks")
        own = {
            "train_micro_batch_size_per_gpu": 1,  # a group of items, whatever it holds
            "gradient_accumulation_steps": groups // self.ranks,
            "gradient_clipping": 0.0,  # DeepSpeed would clip at 1 of its own accord; the published training does not
        }
        self.engine, *_ = deepspeed.initialize(
            model=_Caller(model), optimizer=make_optimizer(model, lr), config={**config, **own}
        )
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if moments:
            self._restore(moments)

    def accumulate(self, compute: Compute, *, groups: int) -> Tensor:
        """Add the gradient of one group's loss; DeepSpeed divides by the groups of a rank and by the ranks."""
        with lockstep(self._largest) if self.engine.zero_optimization_stage() == 3 else nullcontext():
            loss, values = self.engine(compute)
        self.engine.backward(loss)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()  # counts the group; weights change at the last one, in `update`
        return values

    def total(self, values: Tensor) -> Tensor:
        """Sum over ranks."""
        torch.distributed.all_reduce(values)
        return values

    def update(self) -> float:
        """Do the optimiser's step."""
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def any(self, flag: bool) -> bool:
        """Ask all ranks."""
        return bool(self.total(torch.tensor(float(flag), device=self.engine.device)) > 0)

    def _largest(self, number: int) -> int:
        found = torch.tensor(number, device=self.engine.device)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        return int(found)

    def state(self) -> dict[str, Any]:
        """Gather adapter and moments; every rank must call this."""
        step = self._steps()
        moments = {
            name: {key: safe_get_full_optimizer_state(weight, key).cpu().clone() for key in _MOMENTS} | {"step": step}
            for name, weight in self.weights.items()
        }
        with deepspeed.zero.GatheredParameters(list(self.weights.values())):
            return {"adapter": adapter_weights(self.model), "moments": moments}

    def _restore(self, moments: Moments) -> None:
        """Give every rank its part of the moments."""
        zero = self.engine.optimizer
        (step,) = {float(kept["step"]) for kept in moments.values()}
        for flat in self._flat():
            zeros = {key: torch.zeros_like(flat) for key in _MOMENTS}
            zero.optimizer.state[flat] = {"step": torch.tensor(step), **zeros}
        if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):  # stages 1 and 2 tie weights to moments late
            zero._lazy_init_hp_params_optimizer_state()
        for name, kept in moments.items():
            for key in _MOMENTS:
                safe_set_full_optimizer_state(self.weights[name], kept[key].to(self.engine.device), key)

    def _flat(self) -> list[Tensor]:
        """The flat tensors that this rank's optimiser really steps."""
        zero = self.engine.optimizer
        found = getattr(zero, "single_partition_of_fp32_groups", None)
        return list(zero.fp32_partitioned_groups_flat if found is None else found)

    def _steps(self) -> Tensor:
        """How many steps the optimiser has done."""
        state = self.engine.optimizer.optimizer.state
        return next(state[flat]["step"] for flat in self._flat() if flat in state).detach().cpu().clone()
