r"""Fixed points by an iteration that runs backwards: exact gradients, two states of memory.

    y' = (1 - β) y + β f(z)           z  = (z' - β f(y')) / (1 - β)
    z' = (1 - β) z + β f(y')          y  = (y' - β f(z)) / (1 - β)

The reverse sweep makes each iterate again from the next one (right column) and pulls the
cotangents back through the left column, so iterates need not be kept. But it divides by
1 - β in each step, and a contraction forgets its past: round-off is enlarged up to
(1 - β)⁻ᵏ in k steps. So a fixed, small number of iterates (anchors) is kept after all.
At each of them the sweep is set right again; if it was wrong there by more than matters
for the cotangents that are left, the gradient is refused.

McCallum, Foster, *Reversible deep equilibrium models* (2025). arXiv:2509.12917
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ._status import Status
from ._tree import flatten, ravel, stop_gradient
from .adjoint import AbstractAdjoint, Problem, map_of, raise_failed
from .engine.failure import fail_unless_zero
from .implicit import borrow
from .iterate import all_finite
from .linear.checked import accepted_residual
from .solvers.tolerance import scaled_size


DRIFTED = (
    "pyimplicit.fixed_point: `Reversible` lost the iterates to round-off on its way back, "
    "so its gradient would be wrong: (a) raise `anchors`; (b) stop earlier: raise "
    "`rtol` and `atol`; (c) use double precision, or the adjoint pi.Implicit()"
)


class Reversible(AbstractAdjoint):
    """Runs a reversible iteration of its own and differentiates it exactly, in O(1) memory.

    `beta`: β in (0, 1); small is slow and loses little to round-off. `anchors`: how many
    pairs of iterates are kept, `max_steps / (anchors + 1)` steps apart; 0 keeps the start
    only. Reverse mode, first order (the reverse sweep is a rule of its own): for `jvp` and
    Hessians use `Implicit`.

    **Errors:** a reverse sweep that lost its way raises, or is NaN with `throw=False`.

    ??? cite "Reference"
        McCallum, Foster, *Reversible deep equilibrium models* (2025). arXiv:2509.12917
    """

    beta: Any = 0.5
    anchors: int = eqx.field(static=True, default=16)

    def __check_init__(self):
        if not isinstance(self.anchors, int) or self.anchors < 0:
            raise ValueError(
                "`Reversible(anchors=...)` must be a number of iterates, 0 or more.\n"
                f"Got {self.anchors!r}.\nThe default is 16."
            )
        if isinstance(self.beta, int | float) and not 0 < self.beta < 1:
            raise ValueError(
                f"`Reversible(beta=...)` must lie in (0, 1).\nGot {self.beta}.\n"
                "The default is 0.5."
            )

    def solve(self, problem: Problem, z0, params):
        fn = map_of(problem, "Reversible")
        y0, unflatten = flatten(stop_gradient(z0))
        onto = lambda y, params: ravel(fn(unflatten(y), params)).astype(y.dtype)
        onto = eqx.filter_closure_convert(onto, y0, params)
        stride = -(-problem.max_steps // (self.anchors + 1))
        setting = _Setting(problem.solver, problem.max_steps, stride, problem.throw)
        z, status, steps = _iterated((onto, params), y0, self.beta, setting)
        kept, status = raise_failed(problem, stop_gradient(z), status)
        return unflatten(borrow(kept, z, status == 0)), status, steps


class _Setting(eqx.Module):
    solver: Any
    max_steps: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)
    throw: bool = eqx.field(static=True)


def _forth(f, pair, beta):
    y, z = pair
    y = (1 - beta) * y + beta * f(z)
    return y, (1 - beta) * z + beta * f(y)


def _back(f, pair, beta):
    y, z = pair
    z = (z - beta * f(y)) / (1 - beta)
    return (y - beta * f(z)) / (1 - beta), z


def _run(theta, y0, beta, setting):
    fn, params = theta
    f = lambda y: fn(y, params)

    def going(carry):
        pair, steps, size, _ = carry
        return (size > 1) & (steps < setting.max_steps) & all_finite(pair)

    def body(carry):
        pair, steps, _, anchors = carry
        slot, rest = steps // setting.stride, steps % setting.stride
        kept = jnp.where(rest == 0, jnp.stack(pair), anchors[slot])
        after = _forth(f, pair, beta)
        # In units of the tolerance, f - y = (y' - y) / β, and the same for z.
        sizes = [
            scaled_size(setting.solver, (new - old) / beta, new)
            for new, old in zip(after, pair, strict=True)
        ]
        return after, steps + 1, jnp.maximum(*sizes), anchors.at[slot].set(kept)

    infinite = jnp.asarray(jnp.inf, y0.dtype)
    slots = -(-setting.max_steps // setting.stride)
    anchors = jnp.zeros((slots, 2, y0.size), y0.dtype)
    start = (y0, y0), jnp.array(0, jnp.int32), infinite, anchors
    pair, steps, size, anchors = jax.lax.while_loop(going, body, start)
    status = jnp.where(size <= 1, Status.converged, Status.max_steps_reached)
    status = jnp.where(all_finite(pair), status, Status.nonfinite)
    return pair, status.astype(jnp.int32), steps, anchors


@eqx.filter_custom_vjp
def _iterated(theta, y0, beta, setting):
    (_, z), status, steps, _ = _run(theta, y0, beta, setting)
    return z, status, steps


@_iterated.def_fwd
def _iterated_fwd(perturbed, theta, y0, beta, setting):
    del perturbed
    pair, status, steps, anchors = _run(theta, y0, beta, setting)
    return (pair[1], status, steps), (pair, status, steps, anchors)


@_iterated.def_bwd
def _iterated_bwd(residuals, cotangents, perturbed, theta, y0, beta, setting):
    del perturbed
    pair, status, steps, anchors = residuals
    ct_z = cotangents[0]
    moving, fixed = eqx.partition(theta, eqx.is_inexact_array)
    size = lambda pair: jnp.linalg.norm(pair[0]) + jnp.linalg.norm(pair[1])
    scale = jnp.linalg.norm(y0) + size(pair)

    def f(moving, y):
        fn, params = eqx.combine(moving, fixed)
        return fn(y, params)

    def body(carry):
        pair, cts, ct_theta, k, lost = carry
        pair = _back(lambda y: f(moving, y), pair, beta)
        slot, rest = (k - 1) // setting.stride, (k - 1) % setting.stride
        anchored = rest == 0
        drift = size((pair[0] - anchors[slot, 0], pair[1] - anchors[slot, 1])) / scale
        drift = drift * jnp.minimum(size(cts) / jnp.linalg.norm(ct_z), 1.0)
        drift = jnp.where(jnp.isnan(drift), jnp.inf, drift)
        pair = tuple(jnp.where(anchored, anchors[slot, i], pair[i]) for i in range(2))
        _, pull = jax.vjp(lambda t, p: _forth(lambda y: f(t, y), p, beta), moving, pair)
        more, cts = pull(cts)
        ct_theta = jax.tree.map(jnp.add, ct_theta, more)
        return (
            pair,
            cts,
            ct_theta,
            k - 1,
            jnp.where(anchored, jnp.maximum(lost, drift), lost),
        )

    zeros = jax.tree.map(jnp.zeros_like, moving)
    nothing = jnp.zeros((), y0.dtype)
    start = pair, (jnp.zeros_like(ct_z), ct_z), zeros, steps, nothing
    *_, ct_theta, _, lost = jax.lax.while_loop(lambda c: c[3] > 0, body, start)
    ok = (lost <= accepted_residual(y0.dtype)) | jnp.all(ct_z == 0)
    if setting.throw:
        ct_theta = fail_unless_zero(ct_theta, ~ok & (status == 0), ("", DRIFTED))
    return jax.tree.map(lambda c: jnp.where(ok, c, jnp.nan), ct_theta)
