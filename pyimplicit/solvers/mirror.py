"""Mirror descent: gradient steps in the geometry of a Bregman divergence."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx

from .._tree import flatten, ravel, stop_gradient
from .abstract import AbstractMapMinimiser
from .gradient import MOST_GROWTH, check_stepsize, next_stepsize, stepsize_of, still_growing
from .proximal import check_operator
from .tolerance import scaled_size


class MirrorState(eqx.Module):
    gradient: Any  # at z, if the line search has it already
    stepsize: Any
    growth: Any
    size: jax.Array
    going: jax.Array
    steps: jax.Array
    aux: Any


class MirrorDescent(AbstractMapMinimiser):
    """Minimises f(z, θ) over a set, in the geometry of a convex function φ.

    `projection_grad`: projection_grad(z, g, stepsize, params), the next z for the gradient
    g: argmin_u stepsize ⟨g, u⟩ + D_φ(u, z) over the set; jaxopt's, and so is
    `make_projection_grad`. `mapping`: ∇φ, on pytrees like z; with it the step size follows
    the curvature of f relative to φ, and a refused trial counts as a step. `stepsize`: in
    its place, a number or a function of the number of the step. `rtol`, `atol`: it ends
    when a step is within tolerance.

    One gradient for each step. `ExponentiatedGradient()` is the one for simplices.

    ??? cite "Reference"
        Beck, Teboulle, *Mirror descent and nonlinear projected subgradient methods* (2003).
        doi:10.1016/S0167-6377(02)00231-6. Relative curvature: Bauschke, Bolte, Teboulle
        (2017). doi:10.1287/moor.2016.0817
    """

    projection_grad: Callable
    mapping: Callable | None = None
    rtol: Any = None
    atol: Any = None
    stepsize: Any = None
    norm: Callable = optx.rms_norm

    def __check_init__(self):
        check_operator(self, "projection_grad", "projection_grad(z, g, stepsize, params)")
        check_stepsize(self)
        if self.mapping is None and self.stepsize is None:
            raise ValueError(
                "`MirrorDescent` needs a step size, or `mapping` to find one.\n"
                "Got neither.\nPass stepsize=..., or mapping=jax.numpy.log for the entropy."
            )

    @staticmethod
    def make_projection_grad(projection: Callable, mapping: Callable) -> Callable:
        """The step from its halves: `mapping`, ∇φ, and `projection(m, params)`, the point
        of the set nearest to (∇φ)⁻¹(m) in the divergence of φ."""

        def projection_grad(z, g, stepsize, params):
            m = jax.tree.map(lambda m, g: m - stepsize * g, mapping(z), g)
            return projection(m, params)

        return projection_grad

    def map(self, fn, z, params):
        return self.projection_grad(z, jax.grad(fn)(z, params), 1.0, params)

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        v, _ = flatten(y)
        searching = self.stepsize is None
        number = lambda a: jnp.asarray(a, v.dtype)
        gradient, aux = (
            None,
            jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), aux_struct),
        )
        if searching:
            gradient, aux = jax.grad(fn, has_aux=True)(y, args)
        return MirrorState(
            gradient,
            number(1.0) if searching else None,
            number(MOST_GROWTH) if searching else None,
            number(jnp.inf),
            jnp.array(True),
            jnp.array(0),
            aux,
        )

    def step(self, fn, y, args, options, state, tags):
        slope = lambda y: jax.grad(fn, has_aux=True)(y, args)
        g, aux = slope(y) if state.gradient is None else (state.gradient, state.aux)
        s = stepsize_of(self, state)
        z = self.projection_grad(y, g, s, args)
        change = ravel(z) - ravel(y)
        size = scaled_size(self, change, ravel(z))
        if self.mapping is None or self.stepsize is not None:
            steps = state.steps + 1
            state = MirrorState(None, None, None, size, jnp.array(False), steps, aux)
            return z, state, aux
        g_next, aux = slope(z)
        rise = ravel(g_next) - ravel(g)
        dual = ravel(self.mapping(z)) - ravel(self.mapping(y))
        curvature = _relative_curvature(*stop_gradient((change, rise, dual)))
        ok, s, growth = next_stepsize(s, state.growth, curvature)
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)
        going = ~ok | still_growing(state.growth, size, state.size)
        size = jnp.where(ok, size, state.size)
        z, g, aux = keep((z, g_next, aux), (y, g, state.aux))
        return z, MirrorState(g, s, growth, size, going, state.steps + 1, aux), aux

    def terminate(self, fn, y, args, options, state, tags):
        return (state.size <= 1) & ~state.going, optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}


def _relative_curvature(change, rise, dual):
    """⟨∇f(z⁺) - ∇f(z), z⁺ - z⟩ / ⟨∇φ(z⁺) - ∇φ(z), z⁺ - z⟩."""
    length = jnp.sum(change * dual)
    return jnp.where(
        length > 0, jnp.sum(change * rise) / jnp.where(length > 0, length, 1), 0
    )


def exponentiated_gradient(z, g, stepsize, params):
    """z⁺ ∝ z exp(-stepsize g), over the last axis of each array: the step in the geometry
    of the entropy, on products of simplices."""
    del params
    step = lambda z, g: jax.nn.softmax(_log(z) - stepsize * g, axis=-1)
    return jax.tree.map(step, z, g)


def entropy_mapping(z):
    """∇ Σ z log z, up to a constant."""
    return jax.tree.map(_log, z)


def _log(z):
    tiny = jnp.finfo(z.dtype).tiny
    return jnp.log(jnp.where(z > tiny, z, tiny))


def ExponentiatedGradient(
    rtol: Any = None, atol: Any = None, stepsize: Any = None
) -> MirrorDescent:
    """Mirror descent on simplices: z ≥ 0 with sum 1 over the last axis of each array of z.

    The steps z⁺ ∝ z exp(-s ∇f(z)) (Kullback–Leibler divergence), from a positive first
    guess. Coordinates that are 0 at the minimum are approached, never reached.

    Source: Kivinen, Warmuth 1997, doi:10.1006/inco.1996.2612.
    """
    return MirrorDescent(exponentiated_gradient, entropy_mapping, rtol, atol, stepsize)
