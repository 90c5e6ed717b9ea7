"""Proximal and projected gradient descent, accelerated."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx

from .abstract import AbstractMapMinimiser
from .gradient import check_stepsize, descent_state, descent_step


class ProximalGradient(AbstractMapMinimiser):
    r"""Minimises f(z, θ) + ψ(z, θ), with f smooth and ψ known by its proximal operator.

    `prox`: prox(v, params, scaling) = argmin_u scaling · ψ(u, params) + ½‖u - v‖², on
    pytrees like z (the order of jaxopt's; `params` are those of the objective).
    `rtol`, `atol`: it ends when ‖z - prox(v - s ∇f(v), s)‖ is within tolerance, where v is
    z or the extrapolated point next to it. `stepsize`: s, a number or a function of the
    number of the step; by default it follows the curvature of f, and a trial step that is
    refused counts as a step. `acceleration`: Nesterov's, with restarts: for convex f.

    A step costs one gradient and one prox; two gradients if it is accelerated and the
    step size not given. The line search (see `next_stepsize`) takes no function values,
    so it works to the last digit.

    ??? cite "Reference"
        Beck, Teboulle, *A fast iterative shrinkage-thresholding algorithm* (2009).
        doi:10.1137/080716542. Restarts: O'Donoghue, Candès, *Adaptive restart for
        accelerated gradient schemes* (2015), Eq. (13). doi:10.1007/s10208-013-9150-3
    """

    prox: Callable
    rtol: Any = None
    atol: Any = None
    stepsize: Any = None
    acceleration: bool = eqx.field(static=True, default=True)
    norm: Callable = optx.rms_norm

    def __check_init__(self):
        check_operator(self, "prox", "prox(v, params, scaling)")
        check_stepsize(self)

    def map(self, fn, z, params):
        return self.prox(gradient_step(fn, z, params), params, 1.0)

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        return descent_state(self, fn, y, args, aux_struct)

    def step(self, fn, y, args, options, state, tags):
        return descent_step(self, self.prox, fn, y, args, state)

    def terminate(self, fn, y, args, options, state, tags):
        return (state.size <= 1) & ~state.going, optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}


class ProjectedGradient(AbstractMapMinimiser):
    """Minimises f(z, θ) over a convex set, known by the projection onto it.

    `projection`: projection(v, params), the point of the set nearest to v, on pytrees like
    z. Otherwise as `ProximalGradient`, of which it is the special case that ψ is 0 in
    the set and infinite outside. Source: Goldstein 1964, Levitin and Polyak 1966.
    """

    projection: Callable
    rtol: Any = None
    atol: Any = None
    stepsize: Any = None
    acceleration: bool = eqx.field(static=True, default=True)
    norm: Callable = optx.rms_norm

    def __check_init__(self):
        check_operator(self, "projection", "projection(v, params)")
        check_stepsize(self)

    def map(self, fn, z, params):
        return self.projection(gradient_step(fn, z, params), params)

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        return descent_state(self, fn, y, args, aux_struct)

    def step(self, fn, y, args, options, state, tags):
        prox = lambda v, params, scaling: self.projection(v, params)
        return descent_step(self, prox, fn, y, args, state)

    def terminate(self, fn, y, args, options, state, tags):
        return (state.size <= 1) & ~state.going, optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}


def gradient_step(fn, z, params):
    """z - ∇f(z, θ)."""
    return jax.tree.map(jnp.subtract, z, jax.grad(fn)(z, params))


def check_operator(solver, name: str, signature: str) -> None:
    """Raises unless the field `name` is a function."""
    given = getattr(solver, name)
    if not callable(given):
        raise TypeError(
            f"`{type(solver).__name__}({name}=...)` must be a function.\nGot {given!r}.\n"
            f"It is called as {signature}."
        )
