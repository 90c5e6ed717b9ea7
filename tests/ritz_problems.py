"""Closed forms that the tests of `pi.ritz` share."""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from pyimplicit import ritz


class Problem(NamedTuple):
    """`u`: the solution; it is zero on the boundary. `least`: its energy."""

    name: str
    domain: ritz.AbstractDomain
    energy: ritz.Energy
    u: Callable
    least: float


PI = math.pi


def plate(x):
    """-Δu = 1 on (-1, 1)², u = 0 around it: Prandtl's series, of which twelve terms leave
    1e-5 on two sides."""
    k = jnp.arange(12)
    a = (2 * k + 1) * PI / 2
    terms = (-1.0) ** k * jnp.cosh(a * x[1]) / jnp.cosh(a) * jnp.cos(a * x[0]) / a**3
    return (1 - x[0] ** 2) / 2 - 2 * jnp.sum(terms)


def _sine_source(x):
    return x.size * PI**2 * jnp.prod(jnp.sin(PI * x))


PROBLEMS = (
    Problem(
        "disk",  # u = (1 - r²)/4, I = -π/16
        ritz.Ball(2),
        ritz.poisson(1.0),
        lambda x: (1 - x @ x) / 4,
        -PI / 16,
    ),
    Problem(
        "square",  # -Δu = 2π² sin sin, I = -π²/4
        ritz.Box([0, 0], [1, 1]),
        ritz.poisson(_sine_source),
        lambda x: jnp.prod(jnp.sin(PI * x)),
        -(PI**2) / 4,
    ),
    Problem(
        "interval",  # -u'' = π² sin(πx), I = -π²/4
        ritz.Box([0], [1]),
        ritz.poisson(_sine_source),
        lambda x: jnp.prod(jnp.sin(PI * x)),
        -(PI**2) / 4,
    ),
    Problem(
        "ball",  # -Δu = 1 in three dimensions, u = (1 - r²)/6
        ritz.Ball(3),
        ritz.poisson(1.0),
        lambda x: (1 - x @ x) / 6,
        -0.5 * 4 * PI * (1 / 18 - 1 / 30),
    ),
)


class Given(eqx.Module):
    """A known function, times its only parameter."""

    fn: Callable = eqx.field(static=True)
    scale: jax.Array = eqx.field(default_factory=lambda: jnp.ones(()))

    def __call__(self, x):
        return self.scale * self.fn(x)


def relative(field, problem: Problem, n: int = 500) -> float:
    """The relative L² error at random points."""
    x = problem.domain.sample(jax.random.key(7), n)
    u, wanted = jax.vmap(field)(x), jax.vmap(problem.u)(x)
    return float(jnp.linalg.norm(u - wanted) / jnp.linalg.norm(wanted))
