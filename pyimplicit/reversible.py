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
import equinox.internal as eqxi
import jax
import jax.numpy as jnp

from ._status import Status
from ._tree import flatten, ravel, stop_gradient
from .adjoint import AbstractAdjoint, Problem, map_of, raise_failed
from .implicit import borrow
from .iterate import all_finite
from .solvers.tolerance import scaled_size, where
from .sweep import Trace, forth, traced


class Reversible(AbstractAdjoint):
    """Runs a reversible iteration of its own and differentiates it exactly, in O(1) memory.

    `beta`: β in (0, 1); small is slow and loses little to round-off. `anchors`: how many
    pairs of iterates are kept, `max_steps / (anchors + 1)` steps apart; 0 keeps the start
    only. Both modes, first order (the sweeps are a rule of their own): for Hessians use
    `Implicit`.

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
        theta = eqx.filter_closure_convert(onto, y0, params), params
        beta = jnp.asarray(self.beta, y0.dtype)
        held, beta = stop_gradient((theta, beta))
        trace, status = _run(held, y0, beta, self.anchors, problem)
        kept, status = raise_failed(problem, trace.pair[1], status)
        z = borrow(kept, traced(trace, theta, problem.throw), status == 0)
        return unflatten(z), status, trace.steps


def _run(theta, y0, beta, anchors: int, problem: Problem) -> tuple[Trace, jax.Array]:
    """Iterates, and keeps anchors. Under `vmap` all samples share the counter, so that an
    anchor is written in place; a sample that is done keeps its pair."""
    fn, params = theta
    stride = -(-problem.max_steps // (anchors + 1))

    def going(carry):
        count, _, live, *_ = carry
        return (count < problem.max_steps) & eqxi.unvmap_any(live)

    def body(carry):
        count, pair, live, steps, size, kept = carry
        slot, rest = count // stride, count % stride
        kept = kept.at[slot].set(jnp.where(rest == 0, jnp.stack(pair), kept[slot]))
        after = forth(lambda y: fn(y, params), pair, beta)
        # In units of the tolerance, f - y = (y' - y) / β, and the same for z.
        sizes = [
            scaled_size(problem.solver, (new - old) / beta, new)
            for new, old in zip(after, pair, strict=True)
        ]
        pair, size = where(live, (after, jnp.maximum(*sizes)), (pair, size))
        steps, live = steps + live, live & (size > 1) & all_finite(pair)
        return count + 1, pair, live, steps, size, kept

    room = jnp.zeros((-(-problem.max_steps // stride), 2, y0.size), y0.dtype)
    zero, infinite = jnp.array(0, jnp.int32), jnp.asarray(jnp.inf, y0.dtype)
    start = zero, (y0, y0), all_finite(y0), zero, infinite, room
    _, pair, _, steps, size, kept = jax.lax.while_loop(going, body, start)
    status = jnp.where(size <= 1, Status.converged, Status.max_steps_reached)
    status = jnp.where(all_finite(pair), status, Status.nonfinite)
    trace = Trace(y0, pair, steps, kept, beta, jnp.array(stride, jnp.int32))
    return trace, status.astype(jnp.int32)
