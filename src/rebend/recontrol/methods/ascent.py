"""n steps of gradient ascent on a value network, with the result of the plain loop at a fraction of its cost.

RE-Control (arXiv:2406.05954, section 4): h <- h + α ∇V(h), n times. V has ReLU units, so its gradient changes only
where a unit flips: its input changes sign. On z = W₁h + b₁ a step is z <- z + α·Gu with G = W₁W₁ᵀ and u = ∂V/∂z; only
the last h is computed, as h + α·W₁ᵀΣu. With two layers n steps cost three matrix products and one row of G per flip.
With three layers a step without flips costs no product, and a step with flips at most two products over the active
units, where the plain loop needs three over all units.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn.functional import linear

from rebend.generation.norm_limit import Array
from rebend.recontrol.methods.ascent_kernels import (
    ascend_two_layers,
    start_two_layers,
    step_three_layers,
    steps_three_layers,
    steps_two_layers,
)
from rebend.recontrol.value_model.network import ValueNetwork, where_active

FEW = 16  # up to this number of rows one call of a compiled loop is faster than matrix products between calls
WIDE = 1024  # from this number of units a matrix is too large for a core's cache
WIDEST = 2048  # from this number of units three matrices are too large for the cores' shared cache


@dataclass(frozen=True)
class AscentCache:
    """Products of a network's weights that every ascent needs, computed at first use.

    The Gram matrix takes H² numbers (64 MiB for H = 4096 in float32), a third layer's transpose as many.
    """

    network: ValueNetwork

    @cached_property
    def first(self) -> tuple[torch.Tensor, torch.Tensor]:
        """W₁ [H, D] and b₁ [H]."""
        return self.network.first.weight.detach(), self.network.first.bias.detach()

    @cached_property
    def gram(self) -> torch.Tensor:
        """G = W₁W₁ᵀ [H, H]: a step along u changes z by αGu."""
        return self.first[0] @ self.first[0].T

    def times_gram(self, u: torch.Tensor) -> torch.Tensor:
        """Return Gu [B, H]; if H > 2D from W₁ᵀu, which reads less memory."""
        weight = self.first[0]
        return linear(u @ weight, weight) if len(weight) > 2 * weight.shape[1] else u @ self.gram

    @cached_property
    def middle(self) -> tuple[torch.Tensor, torch.Tensor]:
        """W₂ [J, H] and b₂ [J] of a three-layer network."""
        assert self.network.middle is not None
        return self.network.middle.weight.detach(), self.network.middle.bias.detach()

    @cached_property
    def middle_columns(self) -> torch.Tensor:
        """W₂ᵀ [H, J], contiguous."""
        return self.middle[0].T.contiguous()

    @cached_property
    def top(self) -> torch.Tensor:
        """The last layer's weights [H] or [J]."""
        return self.network.last.weight.detach()[0].contiguous()

    @cached_property
    def columns(self) -> torch.Tensor:
        """W₁ᵀ [D, H], contiguous."""
        return self.first[0].T.contiguous()

    @cached_property
    def two_layer_arrays(self) -> tuple[Array, ...]:
        """W₁, W₁ᵀ, b₁, top and Gram matrix as numpy arrays of the same memory, for `ascend_two_layers`."""
        return tuple(x.numpy() for x in (self.first[0], self.columns, self.first[1], self.top, self.gram))

    @cached_property
    def step_arrays(self) -> tuple[Array, ...]:
        """Top, Gram matrix and, with three layers, W₂ and W₂ᵀ as numpy arrays of the same memory."""
        rest = () if self.network.middle is None else (self.middle[0].numpy(), self.middle_columns.numpy())
        return self.top.numpy(), self.gram.numpy(), *rest

    @cached_property
    def recordings(self) -> dict[tuple[int, float, int], Recording]:
        """Recorded ascents on a GPU, by number of rows, step size and number of steps."""
        return {}


@dataclass(frozen=True)
class Recording:
    """A CUDA graph with its input and output memory."""

    graph: torch.cuda.CUDAGraph
    pre: torch.Tensor  # input [B, H]
    total: torch.Tensor  # output [B, H]


def ascend(
    network: ValueNetwork, states: torch.Tensor, step_size: float, n_steps: int, cache: AscentCache | None = None
) -> torch.Tensor:
    """Return states [B, D] after `n_steps` of plain gradient ascent with step size α on V.

    The result equals that of the plain loop up to rounding; at a kink ReLU's derivative is 0, as in torch. States and
    network have the same device and type. `cache` must belong to the same network.
    """
    if not len(states) or n_steps == 0:
        return states
    cache = cache or AscentCache(network)
    if states.device.type == "cpu" and network.middle is None and len(states) <= FEW and len(cache.top) < WIDE:
        out = torch.empty_like(states)
        arrays = cache.two_layer_arrays
        alpha = arrays[0].dtype.type(step_size)
        ascend_two_layers(states.contiguous().numpy(), *arrays, alpha, n_steps, out.numpy())
        return out
    weight, bias = cache.first
    pre = linear(states, weight, bias)
    if states.device.type != "cpu":
        total = _replayed(cache, pre, step_size, n_steps)
    elif network.middle is None:
        total = _two_layers(cache, pre, step_size, n_steps)
    else:
        total = _three_layers(cache, pre, step_size, n_steps)
    return torch.addmm(states, total, weight, alpha=step_size)


def dense_ascent(cache: AscentCache, pre: torch.Tensor, step_size: float, n_steps: int) -> torch.Tensor:
    """Return Σu [B, H] from z = `pre` [B, H] with whole matrix products: a fixed sequence, so a GPU can record it."""
    total = torch.zeros_like(pre)
    top = cache.top.expand(len(pre), -1)
    for _ in range(n_steps):
        if cache.network.middle is None:
            slope = where_active(top, pre)
        else:
            weight, bias = cache.middle
            slope = where_active(where_active(top, linear(pre.relu(), weight, bias)) @ weight, pre)
        total += slope
        pre = torch.addmm(pre, slope, cache.gram, alpha=step_size)
    return total


@torch.inference_mode()
def _replayed(cache: AscentCache, pre: torch.Tensor, step_size: float, n_steps: int) -> torch.Tensor:
    """Return the result of `dense_ascent` from a CUDA graph, because the CPU cannot launch its kernels fast enough."""
    key = (len(pre), step_size, n_steps)
    if key not in cache.recordings:
        cache.recordings[key] = _recorded(cache, pre.clone(), step_size, n_steps)
    recording = cache.recordings[key]
    recording.pre.copy_(pre)
    recording.graph.replay()
    return recording.total


def _recorded(cache: AscentCache, pre: torch.Tensor, step_size: float, n_steps: int) -> Recording:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries choose and set up their kernels before the recording
        dense_ascent(cache, pre, step_size, min(n_steps, 2))
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        total = dense_ascent(cache, pre, step_size, n_steps)
    return Recording(graph, pre, total)


def _two_layers(cache: AscentCache, pre: torch.Tensor, step_size: float, n_steps: int) -> torch.Tensor:
    """Return Σu [B, H]. Rows with many flips in a step share one matrix product."""
    batch, size = pre.shape
    top, gram = cache.step_arrays
    u, total, active = torch.empty_like(pre), torch.empty_like(pre), torch.empty_like(pre, dtype=torch.uint8)
    state = [x.numpy() for x in (pre, u, total, active)]
    start_two_layers(*state, top, n_steps)
    d, stale = cache.times_gram(u), torch.empty(batch, dtype=torch.bool)
    state.insert(1, d.numpy())
    alpha = top.dtype.type(step_size)
    if size < WIDE or batch == 1:
        steps_two_layers(*state, top, gram, alpha, n_steps - 1, 0, size, stale.numpy())
        return total
    limit = size // 16 + size // batch
    for k in range(1, n_steps):
        steps_two_layers(*state, top, gram, alpha, 1, n_steps - 1 - k, limit, stale.numpy())
        rows = stale.nonzero().squeeze(1)
        if len(rows):
            d[rows] = cache.times_gram(u[rows])
    return total


def _three_layers(cache: AscentCache, pre: torch.Tensor, step_size: float, n_steps: int) -> torch.Tensor:
    """Return Σu [B, H]. With wide layers and several rows, all rows with flips share one matrix product."""
    batch, size = pre.shape
    weight, bias = cache.middle
    top, gram, middle, columns = cache.step_arrays
    y = linear(pre.relu(), weight, bias)
    g = where_active(cache.top.expand(batch, -1), y) @ weight
    u = where_active(g, pre)
    d = cache.times_gram(u)
    e = linear(where_active(d, pre), weight)
    total, active, above = u.clone(), (pre > 0).to(torch.uint8), (y > 0).to(torch.uint8)
    alpha = top.dtype.type(step_size)
    state = [x.numpy() for x in (pre, d, u, total, active, y, e, g, above)]
    if size < WIDEST or batch < 3:
        steps_three_layers(*state, top, gram, middle, columns, alpha, n_steps - 1)
        return total
    stale = torch.zeros(batch, dtype=torch.uint8)
    for _ in range(n_steps - 1):
        step_three_layers(*state, top, gram, middle, columns, alpha, stale.numpy())
        turned, changed = (stale == 2).nonzero().squeeze(1), stale.nonzero().squeeze(1)
        if len(turned):
            d[turned] = cache.times_gram(u[turned])
        if len(changed):
            e[changed] = linear(d[changed] * active[changed], weight)
    return total
