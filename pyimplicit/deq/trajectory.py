"""Losses on states along the way to the equilibrium."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optimistix as optx

from .._status import Solution
from .._tree import arrays, ravel, stop_gradient
from ..adjoint import Phantom
from ..fixed_point import fixed_point
from ..iterate import iterate, while_loop
from ..problem import prepare, with_tolerances
from ..solvers import Anderson
from .model import DEQ, as_map


ONE_STEP = Phantom(1)


def trajectory(
    deq: DEQ,
    x: Any,
    *args: Any,
    at: tuple[int, ...],
    z0: Any = None,
    phantom: Phantom = ONE_STEP,
) -> tuple[Solution, Any]:
    r"""The equilibrium, and states on the way to it.

    **Arguments:**

    - `deq`, `x`, `args`, `z0`: as for `deq(x, *args, z0=z0)`.
    - `at`: numbers of steps of the solver, increasing. A solver that ends earlier gives
      its last state for the samples that are left.
    - `phantom`: so many damped steps of the cell follow each sample; they are part of what
      is returned, and the states are differentiated through them.

    **Returns:** `(solution, states)`: the solution of the layer with its own adjoint, and a
    pytree like its value with a leading axis `len(at)`. The layer is solved from the last
    sample on, by a solver that starts afresh there; "iterations" counts all steps.

    ??? cite "Reference"
        Bai, Geng, Savani, Kolter, *Deep equilibrium optical flow estimation*, CVPR 2022,
        Section 4.3. arXiv:2204.08442
    """
    steps = (0, *at)
    if not at or any(b <= a for a, b in zip(steps, at, strict=False)):
        raise ValueError(
            f"`trajectory(at=...)` must hold increasing numbers of steps, from 1 on.\n"
            f"Got {at}.\nFor example at=(2, 4, 8)."
        )
    solver = Anderson() if deq.solver is None else deq.solver
    if not isinstance(solver, optx.AbstractFixedPointSolver):
        raise TypeError(
            "`trajectory` must have a fixed-point solver: steps of it are sampled.\n"
            f"Got {solver!r}.\nTake for example DEQ(cell, solver=pi.Anderson())."
        )
    start = deq.start(x, *args) if z0 is None else z0
    step, params = as_map(deq.cell, arrays(x), *args)
    fn, start, held, restore = prepare("trajectory", step, start, stop_gradient(params))
    solver = with_tolerances(solver, deq.rtol, deq.atol, start)
    kept = []

    def loop(cond, body, init, max_steps):
        number = jnp.array(at)
        put = lambda here, new, old: jax.tree.map(
            lambda n, o: jnp.where(here.reshape(-1, *[1] * n.ndim), n, o), new, old
        )
        empty = jax.tree.map(lambda a: jnp.zeros((len(at), *a.shape), a.dtype), init[0])

        def advance(carry):
            carry, seen = carry
            y, taken, *_ = carry = body(carry)
            return carry, put(number == taken, y, seen)

        going = lambda carry: cond(carry[0])
        carry, seen = while_loop(going, advance, (init, empty), max_steps)
        kept.append(put(number > carry[1], carry[0], seen))
        return carry

    last, _, taken = iterate(
        solver, fn, stop_gradient(start), held, max_steps=at[-1], loop=loop
    )
    samples = jax.vmap(restore)(stop_gradient(kept[0]))
    states = jax.vmap(lambda z: _follow(step, z, params, phantom))(samples)
    last = restore(stop_gradient(last))
    solution = fixed_point(step, last, params, **deq.options(last))
    stats = {**solution.stats, "iterations": solution.stats["iterations"] + taken}
    return solution._replace(stats=stats), states


def _follow(step, z, params, phantom: Phantom):
    tau = phantom.damping
    mix = lambda old, new: (1 - tau) * old + tau * new
    for _ in range(phantom.steps):
        z = jax.tree.map(mix, z, step(z, params))
    return z


def fixed_point_correction(
    loss: Callable[[Any], jax.Array], states: Any, gamma: Any = 0.8
) -> jax.Array:
    """Σᵢ γⁿ⁻ⁱ loss(zᵢ), i = 1 … n, over the states of a `trajectory`: late ones count most.

    `loss`: of one state, a scalar. `gamma`: in (0, 1]; 1 is the plain sum. A scalar.
    """
    n = len(jax.tree.leaves(states)[0])
    losses = jax.vmap(loss)(states)
    if losses.shape != (n,):
        raise ValueError(
            "`fixed_point_correction(loss, states)` must get a loss that is a scalar.\n"
            f"Got shape {losses.shape[1:]}.\nSum or average it."
        )
    return jnp.sum(jnp.asarray(gamma, ravel(losses).dtype) ** jnp.arange(n)[::-1] * losses)
