"""Gradient descent, and the step-size rule that all first-order solvers share."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx

from .._tree import flatten, ravel, stop_gradient
from .tolerance import scaled_size


class DescentState(eqx.Module):
    point: Any  # where the next gradient is taken, a vector; None: at z itself
    gradient: Any  # at z, if the line search has it already
    momentum: Any  # t of Nesterov's sequence, if accelerated
    stepsize: Any
    growth: Any
    size: jax.Array  # of the last trial, in units of the tolerance
    going: jax.Array  # the step size is still far off: do not stop
    steps: jax.Array
    aux: Any  # at z, kept for rejected trials


class GradientDescent(optx.AbstractMinimiser):
    """Gradient descent z ← z - s ∇f(z), an optimistix minimiser.

    `rtol`, `atol`: it ends when a step is within tolerance. `stepsize`: s, a number or a
    function of the number of the step; by default it follows the curvature of f, and a
    trial step that is refused counts as a step (`next_stepsize`). `acceleration`:
    Nesterov's, with restarts (see `ProximalGradient`).

    One gradient for each step (two, if accelerated without a given `stepsize`), no
    function values. Source: Cauchy 1847; Nesterov 1983.
    """

    rtol: Any = None
    atol: Any = None
    stepsize: Any = None
    acceleration: bool = eqx.field(static=True, default=False)
    norm: Callable = optx.rms_norm

    def __check_init__(self):
        check_stepsize(self)

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        return descent_state(self, fn, y, args, aux_struct)

    def step(self, fn, y, args, options, state, tags):
        return descent_step(self, _as_it_is, fn, y, args, state)

    def terminate(self, fn, y, args, options, state, tags):
        return (state.size <= 1) & ~state.going, optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}


def _as_it_is(v, params, scaling):
    del params, scaling
    return v


def check_stepsize(solver) -> None:
    """Raises on a step size that is no positive number."""
    given = solver.stepsize
    if isinstance(given, int | float) and not given > 0:
        raise ValueError(
            f"`{type(solver).__name__}(stepsize=...)` must be positive.\nGot {given}.\n"
            "Leave it out for a line search."
        )


def descent_state(solver, fn, y, args, aux_struct) -> DescentState:
    v, unflatten = flatten(y)
    searching = solver.stepsize is None
    number = lambda a: jnp.asarray(a, v.dtype)
    gradient, aux = None, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), aux_struct)
    if searching and not solver.acceleration:
        gradient, aux = jax.grad(lambda v: fn(unflatten(v), args), has_aux=True)(v)
    return DescentState(
        v if solver.acceleration else None,
        gradient,
        number(1.0) if solver.acceleration else None,
        number(1.0) if searching else None,
        number(MOST_GROWTH) if searching else None,
        number(jnp.inf),
        jnp.array(True),
        jnp.array(0),
        aux,
    )


def descent_step(solver, prox, fn, y, args, state: DescentState):
    """z ← prox(v - s ∇f(v)), from z or an extrapolated v, if the step is short enough."""
    x, unflatten = flatten(y)
    slope = jax.grad(lambda v: fn(unflatten(v), args), has_aux=True)
    v = x if state.point is None else state.point
    s = stepsize_of(solver, state)
    g, aux = slope(v) if state.gradient is None else (state.gradient, state.aux)
    x_next = ravel(prox(unflatten(v - s * g), args, s)).astype(x.dtype)
    size = scaled_size(solver, x_next - v, x_next)
    restart = False
    if solver.stepsize is None:
        g_next, aux = slope(x_next)
        change, rise = stop_gradient((x_next - v, g_next - g))
        ok, s_next, growth = next_stepsize(s, state.growth, _curvature(change, rise))
        # Without a gradient at an extrapolated v go back to z; at z it is the end.
        restart = ~jnp.all(jnp.isfinite(g))
        ok = ok | (restart & jnp.all(v == x))
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)
        going = ~ok | still_growing(state.growth, size, state.size)
        size = jnp.where(ok, size, state.size)
    else:
        ok, s_next, growth, g_next = jnp.array(True), None, None, None
        keep = lambda new, old: new
        going = jnp.array(False)
    point = momentum = None
    if solver.acceleration:
        refused = jnp.where(restart, x, v), jnp.where(restart, 1.0, state.momentum)
        point, momentum = keep(_extrapolate(x, x_next, v, state.momentum), refused)
    gradient = None if state.gradient is None else keep(g_next, g)
    aux = keep(aux, state.aux)
    state = DescentState(
        point, gradient, momentum, s_next, growth, size, going, state.steps + 1, aux
    )
    return unflatten(keep(x_next, x)), state, aux


def still_growing(growth, size, last):
    """Whether a step may be small only because the step size is."""
    return jnp.isinf(last) | ((growth > 2) & ~(size <= last))


def stepsize_of(solver, state):
    """The step size to try: the given one, or that of the line search."""
    if solver.stepsize is None:
        return state.stepsize
    return solver.stepsize(state.steps) if callable(solver.stepsize) else solver.stepsize


def _extrapolate(x, x_next, v, t):
    """v and t that follow; back to x_next and 1 where the last step went against g."""
    uphill = jnp.vdot(v - x_next, x_next - x) > 0
    t = jnp.where(uphill, 1.0, t)
    t_next = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
    share = jax.lax.stop_gradient((t - 1) / t_next)
    return x_next + share * (x_next - x), t_next


MOST_GROWTH = 10.0
LEAST_GROWTH = 1.01


def _curvature(change, rise):
    """⟨∇f(z⁺) - ∇f(z), z⁺ - z⟩ / ‖z⁺ - z‖²."""
    length = jnp.sum(change * change)
    return jnp.where(
        length > 0, jnp.sum(change * rise) / jnp.where(length > 0, length, 1), 0
    )


def next_stepsize(stepsize, growth, curvature):
    """Whether a step was short enough, the next step size, and how fast it may grow.

    A step of length s is accepted if the curvature of f along it is at most 1/s: for a
    quadratic f just the sufficient decrease f(z⁺) ≤ f(z) + ⟨∇f(z), d⟩ + ‖d‖²/(2s) of Beck
    and Teboulle, and for any f the slope still leads down at z⁺. It is measured by
    gradients, since function values tell z only to the square root of the precision. The
    step size then is what the curvature says, at most `growth` times the last one. The
    growth falls with each refusal, and rises slowly between them.

    Source: Becker, Candès, Grant 2011, doi:10.1007/s12532-011-0029-5, Section 5.3.
    """
    stepsize, growth, curvature = jax.lax.stop_gradient((stepsize, growth, curvature))
    eps = float(jnp.finfo(stepsize.dtype).eps)
    product = stepsize * curvature
    ok = product <= 1 + eps**0.5  # false for NaN
    change = jnp.where(product > 0, 1 / jnp.where(product > 0, product, 1), jnp.inf)
    factor = jnp.where(ok, jnp.clip(change, 1, growth), jnp.clip(change, 1e-3, 0.8))
    growth = jnp.clip(growth ** jnp.where(ok, 1.1, 0.25), LEAST_GROWTH, MOST_GROWTH)
    return ok, jnp.minimum(stepsize * factor, eps**-2), growth
