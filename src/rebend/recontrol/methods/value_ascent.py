"""n steps of gradient ascent up a value network: the numbers of the plain loop, for a fraction of its work.

RE-Control (arXiv:2406.05954, section 4): h <- h + α ∇V(h), n times. V is made of ReLUs, so its gradient changes
only where a unit changes sign. Written on z = W₁h + b₁ a step is z <- z + α·Gu with G = W₁W₁ᵀ and u = ∂V/∂z; h is
needed at the end alone: h + α·W₁ᵀΣu. With two layers n steps cost three products with a matrix and, for each unit
that flips, one row of G. With three layers a step in which no unit flips costs nothing either, one with flips at
most two products over the units that are active, in place of three over all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn.functional import linear

from rebend.recontrol.methods.ascent_kernels import Array, climb_two, pace_three, start_two, walk_three, walk_two
from rebend.recontrol.value_model.network import ValueNetwork, where_active

FEW = 16  # rows up to which one call for everything is faster than products of matrices between calls
WIDE = 1024  # units from which on a matrix is too large for a core's cache
WIDEST = 2048  # units from which on three matrices are too large for the cores' common cache


@dataclass(frozen=True)
class Slopes:
    """What a climb needs of a network again and again, made when first needed.

    The Gram matrix takes H² numbers (64 MiB for H = 4096 in float32), a third layer's transpose as many.
    """

    network: ValueNetwork

    @cached_property
    def first(self) -> tuple[torch.Tensor, torch.Tensor]:
        """W₁ [H, D] and b₁ [H]."""
        return self.network.first.weight.detach(), self.network.first.bias.detach()

    @cached_property
    def gram(self) -> torch.Tensor:
        """W₁W₁ᵀ [H, H]: how a step along u changes z."""
        return self.first[0] @ self.first[0].T

    def pushed(self, u: torch.Tensor) -> torch.Tensor:
        """Return Gu [B, H]; where H is large beside D, by way of W₁ᵀu, which is less to read."""
        weight = self.first[0]
        return linear(u @ weight, weight) if len(weight) > 2 * weight.shape[1] else u @ self.gram

    @cached_property
    def middle(self) -> tuple[torch.Tensor, torch.Tensor]:
        """W₂ [J, H] and b₂ [J] of a three-layer network."""
        assert self.network.middle is not None
        return self.network.middle.weight.detach(), self.network.middle.bias.detach()

    @cached_property
    def middle_columns(self) -> torch.Tensor:
        """W₂ᵀ [H, J], each unit's column in one piece."""
        return self.middle[0].T.contiguous()

    @cached_property
    def top(self) -> torch.Tensor:
        """The last layer's weights [H] or [J]."""
        return self.network.last.weight.detach()[0].contiguous()

    @cached_property
    def columns(self) -> torch.Tensor:
        """W₁ᵀ [D, H], each input's column in one piece."""
        return self.first[0].T.contiguous()

    @cached_property
    def whole(self) -> tuple[Array, ...]:
        """W₁, W₁ᵀ, b₁, top and Gram matrix as numpy sees them, for a climb in one call."""
        return tuple(x.numpy() for x in (self.first[0], self.columns, self.first[1], self.top, self.gram))

    @cached_property
    def recordings(self) -> dict[tuple[int, float, int], Recording]:
        """Climbs recorded on a GPU, one for each number of rows, step size and number of steps."""
        return {}

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The same memory as numpy sees it: top, Gram matrix and, with three layers, W₂ and W₂ᵀ."""
        rest = () if self.network.middle is None else (self.middle[0].numpy(), self.middle_columns.numpy())
        return self.top.numpy(), self.gram.numpy(), *rest


@dataclass(frozen=True)
class Recording:
    """A CUDA graph with the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    pre: torch.Tensor  # [B, H]
    total: torch.Tensor  # [B, H]


def climb(
    network: ValueNetwork, states: torch.Tensor, step_size: float, n_steps: int, slopes: Slopes | None = None
) -> torch.Tensor:
    """Return states [B, D] after `n_steps` of plain gradient ascent with step size α on V.

    The trajectory is that of stepping h itself, to rounding; at a kink ReLU's derivative is 0, as in torch. States
    and network have one device and dtype. `slopes` of the same network keep what does not depend on the states.
    """
    if not len(states) or n_steps == 0:
        return states
    slopes = slopes or Slopes(network)
    if states.device.type == "cpu" and network.middle is None and len(states) <= FEW and len(slopes.top) < WIDE:
        out = torch.empty_like(states)
        climb_two(
            states.contiguous().numpy(), *slopes.whole, slopes.whole[0].dtype.type(step_size), n_steps, out.numpy()
        )
        return out
    weight, bias = slopes.first
    pre = linear(states, weight, bias)
    if states.device.type != "cpu":
        total = _recorded(slopes, pre, step_size, n_steps)
    elif network.middle is None:
        total = _two_layers(slopes, pre, step_size, n_steps)
    else:
        total = _three_layers(slopes, pre, step_size, n_steps)
    return torch.addmm(states, total, weight, alpha=step_size)


def climbed_densely(slopes: Slopes, pre: torch.Tensor, step_size: float, n_steps: int) -> torch.Tensor:
    """Return Σu [B, H] from z = `pre` [B, H] with products of whole matrices: fixed work, nothing read back."""
    total = torch.zeros_like(pre)
    top = slopes.top.expand(len(pre), -1)
    for _ in range(n_steps):
        if slopes.network.middle is None:
            slope = where_active(top, pre)
        else:
            weight, bias = slopes.middle
            slope = where_active(where_active(top, linear(pre.relu(), weight, bias)) @ weight, pre)
        total += slope
        pre = torch.addmm(pre, slope, slopes.gram, alpha=step_size)
    return total


@torch.inference_mode()
def _recorded(slopes: Slopes, pre: torch.Tensor, step_size: float, n_steps: int) -> torch.Tensor:
    """Return `climbed_densely` on a GPU, its launches recorded once and replayed: the CPU would not keep up."""
    key = (len(pre), step_size, n_steps)
    if key not in slopes.recordings:
        given = pre.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries choose and set up their kernels outside of the recording
            climbed_densely(slopes, given, step_size, min(n_steps, 2))
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            total = climbed_densely(slopes, given, step_size, n_steps)
        slopes.recordings[key] = Recording(graph, given, total)
    found = slopes.recordings[key]
    found.pre.copy_(pre)
    found.graph.replay()
    return found.total


def _two_layers(slopes: Slopes, pre: torch.Tensor, step_size: float, n_steps: int) -> torch.Tensor:
    """Return Σu [B, H]; a row with many flips in a step is better served by one product for all such rows."""
    batch, size = pre.shape
    top, gram = slopes.arrays
    u, total, active = torch.empty_like(pre), torch.empty_like(pre), torch.empty_like(pre, dtype=torch.uint8)
    state = [x.numpy() for x in (pre, u, total, active)]
    start_two(*state, top, n_steps)
    d, stale = slopes.pushed(u), torch.empty(batch, dtype=torch.bool)
    state.insert(1, d.numpy())
    alpha = top.dtype.type(step_size)
    if size < WIDE or batch == 1:
        walk_two(*state, top, gram, alpha, n_steps - 1, 0, size, stale.numpy())
        return total
    limit = size // 16 + size // batch
    for k in range(1, n_steps):
        walk_two(*state, top, gram, alpha, 1, n_steps - 1 - k, limit, stale.numpy())
        rows = stale.nonzero().squeeze(1)
        if len(rows):
            d[rows] = slopes.pushed(u[rows])
    return total


def _three_layers(slopes: Slopes, pre: torch.Tensor, step_size: float, n_steps: int) -> torch.Tensor:
    """Return Σu [B, H]; the widest layers in larger batches are multiplied for all rows with flips together."""
    batch, size = pre.shape
    weight, bias = slopes.middle
    top, gram, middle, columns = slopes.arrays
    y = linear(pre.relu(), weight, bias)
    g = where_active(slopes.top.expand(batch, -1), y) @ weight
    u = where_active(g, pre)
    d = slopes.pushed(u)
    e = linear(where_active(d, pre), weight)
    total, active, above = u.clone(), (pre > 0).to(torch.uint8), (y > 0).to(torch.uint8)
    alpha = top.dtype.type(step_size)
    state = [x.numpy() for x in (pre, d, u, total, active, y, e, g, above)]
    if size < WIDEST or batch < 3:
        walk_three(*state, top, gram, middle, columns, alpha, n_steps - 1)
        return total
    stale = torch.zeros(batch, dtype=torch.uint8)
    for _ in range(n_steps - 1):
        pace_three(*state, top, gram, middle, columns, alpha, stale.numpy())
        turned, changed = (stale == 2).nonzero().squeeze(1), stale.nonzero().squeeze(1)
        if len(turned):
            d[turned] = slopes.pushed(u[turned])
        if len(changed):
            e[changed] = linear(d[changed] * active[changed], weight)
    return total
