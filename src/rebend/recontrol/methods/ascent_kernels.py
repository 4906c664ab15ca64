"""Compiled CPU loops of the ascent, in place of thousands of small torch operations per token.

Rows of a batch are processed one by one, so a row's result does not depend on the others. A unit is active while its
input is above 0, as in torch's ReLU. A unit flips when it becomes active or inactive; only flips change the gradient.
The fast-math flag is off, so sums keep their order and the same inputs give the same bytes. Letters as in `ascent.py`:
z = W1 h + b1, u = dV/dz, d = G u with the Gram matrix G; H units in the first layer, J in the second.
"""

from __future__ import annotations

import numpy as np

from rebend.generation.norm_limit import Array, compiled

BLOCK = 32  # units checked for a flip together; a constant, so that the compiler uses vector instructions


@compiled
def _step(pre: Array, slope: Array, alpha: float, active: Array, flipped: Array) -> int:
    """Add alpha · slope to `pre` [H], update `active`, write the flipped units to `flipped`; return their number."""
    n = 0
    size = pre.shape[0]
    whole = size - size % BLOCK
    for start in range(0, whole, BLOCK):
        changed = np.uint8(0)
        for i in range(start, start + BLOCK):
            pre[i] += alpha * slope[i]
            changed |= np.uint8(pre[i] > 0) ^ active[i]
        if changed:
            for i in range(start, start + BLOCK):
                if (pre[i] > 0) != (active[i] > 0):
                    active[i] = 1 - active[i]
                    flipped[n] = i
                    n += 1
    for i in range(whole, size):
        pre[i] += alpha * slope[i]
        if (pre[i] > 0) != (active[i] > 0):
            active[i] = 1 - active[i]
            flipped[n] = i
            n += 1
    return n


@compiled
def _add(out: Array, change: Array) -> None:
    for i in range(out.shape[0]):
        out[i] += change[i]


@compiled
def _add_rows(out: Array, matrix: Array, rows: Array, factors: Array, n: int) -> None:
    """Add the first n of `rows` of the matrix to `out`, each times its factor, four in one pass."""
    whole = n - n % 4
    for k in range(0, whole, 4):
        a, b, c, d = matrix[rows[k]], matrix[rows[k + 1]], matrix[rows[k + 2]], matrix[rows[k + 3]]
        p, q, r, s = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
        for i in range(out.shape[0]):
            out[i] += p * a[i] + q * b[i] + r * c[i] + s * d[i]
    for k in range(whole, n):
        a, p = matrix[rows[k]], factors[k]
        for i in range(out.shape[0]):
            out[i] += p * a[i]


@compiled
def _times_active(out: Array, matrix: Array, active: Array, values: Array, rows: Array, factors: Array) -> None:
    """Write the sum of the active units' rows of the matrix to `out`, each row times its value."""
    n = 0
    for i in range(active.shape[0]):
        if active[i]:
            rows[n] = i
            factors[n] = values[i]
            n += 1
    out[:] = 0
    _add_rows(out, matrix, rows, factors, n)


@compiled
def _start_two_layers(z: Array, u: Array, total: Array, active: Array, top: Array, n_steps: int) -> None:
    """Write u = dV/dz, the active units and n_steps · u from z [H]."""
    for i in range(z.shape[0]):
        active[i] = z[i] > 0
        u[i] = top[i] * active[i]
        total[i] = u[i] * n_steps


@compiled
def start_two_layers(z: Array, u: Array, total: Array, active: Array, top: Array, n_steps: int) -> None:
    """Call `_start_two_layers` for every row of arrays [B, H]."""
    for row in range(z.shape[0]):
        _start_two_layers(z[row], u[row], total[row], active[row], top, n_steps)


@compiled
def _steps_two_layers(
    z: Array, d: Array, u: Array, total: Array, active: Array, top: Array, gram: Array, alpha: float, n_steps: int,
    after: int, limit: int, flipped: Array, factors: Array,
) -> bool:  # fmt: skip
    """Take `n_steps` steps of one row [H]; the caller takes `after` more later. u and d are updated at every step.

    `total` is the sum of u over all steps, as if no further unit flipped: a change of u is added once per remaining
    step. After a step with more flips than `limit` the function returns True, and the caller must compute d.
    """
    for k in range(n_steps):
        n = _step(z, d, alpha, active, flipped)
        if n == 0:
            continue
        left = after + n_steps - k
        for f in range(n):
            i = flipped[f]
            factors[f] = -u[i]
            if active[i]:
                factors[f] = top[i]
            u[i] += factors[f]
            total[i] += factors[f] * left
        if n > limit:
            return True
        _add_rows(d, gram, flipped, factors, n)
    return False


@compiled
def steps_two_layers(
    z: Array, d: Array, u: Array, total: Array, active: Array, top: Array, gram: Array, alpha: float, n_steps: int,
    after: int, limit: int, stale: Array,
) -> None:  # fmt: skip
    """Call `_steps_two_layers` for every row, with its result in `stale` [B]. Arrays are [B, H], gram [H, H]."""
    flipped, factors = np.empty(z.shape[1], np.int64), np.empty(z.shape[1], z.dtype)
    for row in range(z.shape[0]):
        stale[row] = _steps_two_layers(
            z[row], d[row], u[row], total[row], active[row], top, gram, alpha, n_steps, after, limit, flipped, factors
        )


@compiled
def ascend_two_layers(
    states: Array, weight: Array, weight_t: Array, bias: Array, top: Array, gram: Array, alpha: float, n_steps: int,
    out: Array,
) -> None:  # fmt: skip
    """Write the states [B, D] after the whole ascent of a two-layer network to `out`.

    For small batches, where several calls would cost more than their work. `weight` is W1 [H, D], `weight_t` its
    contiguous transpose.
    """
    size = weight.shape[0]
    z, d = np.empty(size, states.dtype), np.empty(size, states.dtype)
    u, total = np.empty(size, states.dtype), np.empty(size, states.dtype)
    active, every = np.empty(size, np.uint8), np.arange(states.shape[1])
    flipped, factors = np.empty(size, np.int64), np.empty(size, states.dtype)
    for row in range(states.shape[0]):
        z[:] = bias
        _add_rows(z, weight_t, every, states[row], states.shape[1])
        _start_two_layers(z, u, total, active, top, n_steps)
        _times_active(d, gram, active, u, flipped, factors)
        _steps_two_layers(z, d, u, total, active, top, gram, alpha, n_steps - 1, 0, size, flipped, factors)
        for i in range(size):
            active[i] = total[i] != 0
            total[i] *= alpha
        _times_active(out[row], weight, active, total, flipped, factors)
        _add(out[row], states[row])


@compiled
def _step_three_layers(
    z: Array, d: Array, u: Array, total: Array, active: Array, y: Array, e: Array, g: Array, above: Array,
    top: Array, gram: Array, middle: Array, middle_t: Array, alpha: float,
    flipped: Array, crossed: Array, factors: Array,
) -> int:  # fmt: skip
    """Take one step of one row; return what the caller must compute: 0 nothing, 1 e, 2 d and e."""
    n = _step(z, d, alpha, active, flipped)
    for f in range(n):  # the step of y by e does not have the part of a flipped unit beyond its kink
        factors[f] = abs(z[flipped[f]])
    _add_rows(y, middle_t, flipped, factors, n)
    m = _step(y, e, alpha, above, crossed)
    for f in range(m):
        j = crossed[f]
        factors[f] = -top[j]
        if above[j]:
            factors[f] = top[j]
    _add_rows(g, middle, crossed, factors, m)
    if m == 0:
        for f in range(n):
            i = flipped[f]
            factors[f] = -u[i]
            if active[i]:
                factors[f] = g[i]
            u[i] += factors[f]
        _add_rows(d, gram, flipped, factors, n)
    else:
        for i in range(u.shape[0]):
            u[i] = g[i] * active[i]
    _add(total, u)
    if m:
        return 2
    return 1 if n else 0


@compiled
def steps_three_layers(
    z: Array, d: Array, u: Array, total: Array, active: Array, y: Array, e: Array, g: Array, above: Array,
    top: Array, gram: Array, middle: Array, middle_t: Array, alpha: float, n_steps: int,
) -> None:  # fmt: skip
    """Take all steps of a three-layer network with H, then J units; y [B, J] is the second layer's input.

    Updated at every step: g = middle^T (top where y is above 0) [B, H], u = dV/dz = g where z is above 0,
    d = gram u, and e = middle (d where z is above 0) [B, J], the change of y by a step of length 1.
    """
    size = z.shape[1]
    flipped, crossed, factors = np.empty(size, np.int64), np.empty(y.shape[1], np.int64), np.empty(size, z.dtype)
    if y.shape[1] > size:
        factors = np.empty(y.shape[1], z.dtype)
    for row in range(z.shape[0]):
        for _ in range(n_steps):
            left = _step_three_layers(
                z[row], d[row], u[row], total[row], active[row], y[row], e[row], g[row], above[row],
                top, gram, middle, middle_t, alpha, flipped, crossed, factors,
            )  # fmt: skip
            if left == 2:
                _times_active(d[row], gram, active[row], u[row], flipped, factors)
            if left:
                _times_active(e[row], middle_t, active[row], d[row], flipped, factors)


@compiled
def step_three_layers(
    z: Array, d: Array, u: Array, total: Array, active: Array, y: Array, e: Array, g: Array, above: Array,
    top: Array, gram: Array, middle: Array, middle_t: Array, alpha: float, stale: Array,
) -> None:  # fmt: skip
    """Take one step of every row; write the results of `_step_three_layers` to `stale` [B]."""
    size = z.shape[1]
    flipped, crossed, factors = np.empty(size, np.int64), np.empty(y.shape[1], np.int64), np.empty(size, z.dtype)
    for row in range(z.shape[0]):
        stale[row] = _step_three_layers(
            z[row], d[row], u[row], total[row], active[row], y[row], e[row], g[row], above[row],
            top, gram, middle, middle_t, alpha, flipped, crossed, factors,
        )  # fmt: skip
