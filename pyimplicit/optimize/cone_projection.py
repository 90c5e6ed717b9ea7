"""Projections onto dual cones, differentiable: what optimality conditions are made of."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..implicit import Linearisation, attach
from .cones import PSD, Cone, Exponential, Power, SecondOrder, Zero, matricise, vectorise
from .projection.cones import (
    projection_exponential_cone,
    projection_psd_cone,
    projection_second_order_cone,
)


def dual_projection(cones: tuple[Cone, ...], u):
    """The projection of u onto the product of the dual cones; differentiable."""
    out, at = [], 0
    for cone, count in _runs(cones):
        block = u[at : at + count * cone.dim].reshape(count, cone.dim)
        one = _projection(cone)
        out.append((jax.vmap(one)(block) if count > 1 else one(block[0])).reshape(-1))
        at += count * cone.dim
    return jnp.concatenate(out) if out else u


def _projection(cone: Cone):
    match cone:
        case Zero():
            return lambda u: u
        case SecondOrder():
            return projection_second_order_cone
        case PSD(n):
            return lambda u: vectorise(projection_psd_cone(matricise(u, n)))
        case Exponential():  # and Power: Π* (u) = u + Π(-u) (Moreau)
            return lambda u: u + projection_exponential_cone(-u)
        case Power(alpha):
            return lambda u: u + _power(-u, alpha)
        case _:  # Nonnegative
            return lambda u: jnp.where(u > 0, u, 0.0)


def _runs(cones):
    """Equal cones next to each other, counted: they are one batch."""
    runs: list[list] = []
    for cone in cones:
        if runs and runs[-1][0] == cone:
            runs[-1][1] += 1
        else:
            runs.append([cone, 1])
    return runs


@eqx.filter_jit
def _power(x, alpha: float):
    """The projection onto the power cone: with r = |c| of the answer,

        a(r) = ½(a + √(a² + 4 α r (|c| - r))), b(r) likewise,  a(r)^α b(r)^(1-α) = r

    (Hien 2015, *Differential properties of Euclidean projection onto power cone*,
    doi:10.1007/s00186-015-0514-0). r by bisection, its derivative by that equation.
    """
    a, b, c = jax.lax.stop_gradient(x)
    size = jnp.abs(c)
    product = lambda a, b: jnp.maximum(a, 0) ** alpha * jnp.maximum(b, 0) ** (1 - alpha)
    inside = (a >= 0) & (b >= 0) & (product(a, b) >= size)
    polar = (a <= 0) & (b <= 0) & (product(-a / alpha, -b / (1 - alpha)) >= size)
    general = ~inside & ~polar & (size > 0)
    y = jnp.where(general, x, jnp.array([0.0, 0.0, 1.0], x.dtype))

    def ends(r, y):
        gap = r * (jnp.abs(y[2]) - r)
        root = lambda v, w: (v + jnp.sqrt(v**2 + 4 * w * gap)) / 2
        return root(y[0], alpha), root(y[1], 1 - alpha)

    def condition(r, y):
        a, b = ends(r, y)
        return alpha * jnp.log(a) + (1 - alpha) * jnp.log(b) - jnp.log(r)

    still = jax.lax.stop_gradient(y)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        above = condition(middle, still) > 0
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    start = jnp.zeros((), x.dtype), jnp.abs(still[2])
    low, high = jax.lax.fori_loop(0, jnp.finfo(x.dtype).nmant + 8, halve, start)
    r = attach((low + high) / 2, condition, y, Linearisation(throw=False))
    p = jnp.stack([*ends(r, y), jnp.sign(y[2]) * r])
    flat = jnp.maximum(x, 0.0).at[2].set(0.0)
    return jnp.where(inside, x, jnp.where(polar, 0.0, jnp.where(general, p, flat)))
