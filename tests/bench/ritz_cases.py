"""The problems of `tests.bench.ritz`: those of the paper (E, Yu 2018), and a smooth one."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from pyimplicit import ritz

from . import ritz_elements as elements


class Recipe(NamedTuple):
    """How a problem is solved. `model`: key -> a network. `first`: what is done before;
    its network is where this one starts."""

    model: Callable
    boundary: ritz.AbstractBoundary
    quadrature: ritz.AbstractQuadrature
    steps: int
    optimizer: ritz.AbstractOptimizer = ritz.LevenbergMarquardt()
    first: Any = None


class Case(NamedTuple):
    """One row. `elements`: the number of parameters -> the error of linear elements."""

    label: str
    paper: float | None
    elements: Callable[[int], float | None]
    energy: ritz.Energy
    domain: ritz.AbstractDomain
    error: Callable[[ritz.RitzResult], float]
    metric: Recipe | None
    adam: Recipe | None
    fine: Any = None


def adam(model, boundary, quadrature, steps=10_000, rate=5e-3) -> Recipe:
    """As in the paper: nodes drawn again in each step. The rate falls to zero."""
    schedule = optax.cosine_decay_schedule(rate, steps)
    return Recipe(model, boundary, quadrature, steps, ritz.Adam(schedule, clip=10.0))


class Positive(eqx.Module):
    """exp of a network: a first eigenfunction has one sign."""

    net: ritz.MLP

    def __call__(self, x):
        return jnp.exp(self.net(x))


class Bell(ritz.AbstractQuadrature):
    """`n` Sobol points with the density of exp(-|x|²/2) in the box (-h, h)^d: uniform ones
    miss what is large near the middle of many dimensions only."""

    n: int = eqx.field(static=True)
    fixed: bool = eqx.field(static=True, default=False)
    seed: int = eqx.field(static=True, default=0)

    def rule(self, domain: Any, key):
        sobol = ritz.Sobol(self.n, fixed=self.fixed, seed=self.seed)
        inside, around = sobol.rule(domain, key)
        h = domain.upper[0]
        whole = math.erf(h / 2**0.5)
        x = 2**0.5 * jax.lax.erf_inv(inside.x / h * whole)
        density = jnp.exp(-0.5 * x**2) / ((2 * math.pi) ** 0.5 * whole)
        w = inside.w / jnp.prod(2 * h * density, axis=1)
        return ritz.Rule(inside._replace(x=x, w=w), around)


def box(d, a=0.0, b=1.0):
    return ritz.Box([a] * d, [b] * d)


def net(d, width, centre=0.5, reach=0.5, **more):
    return lambda key: ritz.MLP(d, width, 1, centre=centre, reach=reach, key=key, **more)


def paper_net(blocks: int) -> Callable:
    """The paper's own; halved at first, as ReLU³ grows quickly."""
    return lambda key: jax.tree.map(lambda a: 0.5 * a, ritz.ReLU3(2, 10, blocks, key=key))


def in_l2(u, nodes):
    """The relative error on nodes `(x, w)`."""
    x, w = nodes
    wanted = jax.vmap(u)(x)

    def error(found):
        off = found.u(x) - wanted
        return float(jnp.sqrt(jnp.sum(w * off**2) / jnp.sum(w * wanted**2)))

    return error


def random(domain):
    x = domain.sample(jax.random.key(9), 20_000)
    return x, jnp.ones(len(x))


def fine_points(domain):
    return ritz.Sobol(2**13, 1, fixed=True, seed=1).rule(domain, jax.random.key(0))


def square() -> Iterator[Case]:
    """-Δu = 2π² sin sin."""
    u = lambda x: jnp.prod(jnp.sin(math.pi * x))
    model = net(2, 24, activation=jnp.sin, scale=3.0)
    yield Case(
        "2-D Poisson", None, elements.square,
        ritz.poisson(lambda x: 2 * math.pi**2 * u(x)), box(2), in_l2(u, random(box(2))),
        Recipe(model, ritz.Exact(), ritz.Gauss(4, 6), 300),
        adam(model, ritz.Exact(), ritz.MonteCarlo(512)),
    )  # fmt: skip


def slit() -> Iterator[Case]:
    """u = r^(1/2) sin(θ/2): networks of x alone, and one of the tip's two functions.

    The paper's network is a polynomial of degree 9^blocks in pieces: metric steps need
    many nodes (10,368 here), and start where Adam ends."""
    domain = ritz.Slit()
    u = lambda x: domain.corner(x)[1]
    x, w, _ = domain.gauss(6, 6).interior
    tip = lambda key: ritz.Features((None, domain.corner), ritz.MLP(4, 20, 1, key=key))
    drawn = ritz.MonteCarlo(512, 512)
    refined = lambda n: elements.slit(n, refined=True)
    few, many = ritz.Gauss(6, 2), ritz.Gauss(6, 6, boundary=24)
    for blocks, paper in ((3, 0.0079), (4, 0.0072), (5, 0.00647), (6, 0.0057)):
        model, hold = paper_net(blocks), ritz.Penalty(u, 500.0)
        metric = ritz.LevenbergMarquardt(start=1e-2)
        rate = 1e-2 if blocks < 5 else 5e-3  # deeper ones are thrown out by longer steps
        start = adam(model, hold, drawn, 20_000, rate)
        yield Case(
            f"slit, {blocks} blocks", paper, elements.slit, ritz.poisson(), domain,
            in_l2(u, (x, w)), Recipe(model, hold, many, 100, metric, start),
            adam(model, hold, drawn, rate=rate),
        )  # fmt: skip
    yield Case(
        "slit, tip known", None, refined, ritz.poisson(), domain, in_l2(u, (x, w)),
        Recipe(tip, ritz.Penalty(u, 1e4), few, 60),
        adam(tip, ritz.Penalty(u, 500.0), drawn),
    )  # fmt: skip


def harmonic() -> Iterator[Case]:
    """u = x₁x₂ + … + x₉x₁₀."""
    u, ten = lambda x: jnp.sum(x[::2] * x[1::2]), box(10)
    model = net(10, 30, activation=jax.nn.softplus)
    yield Case(
        "10-D harmonic", 0.004, lambda n: None, ritz.poisson(), ten, in_l2(u, random(ten)),
        Recipe(model, ritz.Penalty(u, 1e3), ritz.Sobol(2048, 2048, fixed=True), 80),
        adam(model, ritz.Penalty(u, 500.0), ritz.MonteCarlo(512, 512)), fine_points(ten),
    )  # fmt: skip


def neumann() -> Iterator[Case]:
    """-Δu + π²u = 2π² Σ cos πx_k."""
    u = lambda x: jnp.sum(jnp.cos(math.pi * x))
    energy = ritz.poisson(lambda x: 2 * math.pi**2 * u(x), reaction=math.pi**2)
    for d, paper in ((5, 0.013), (10, 0.019)):
        yield Case(
            f"Neumann, d = {d}", paper, functools.partial(elements.neumann, d), energy,
            box(d), in_l2(u, random(box(d))),
            Recipe(net(d, 20), ritz.Natural(), ritz.Sobol(4096, fixed=True), 40),
            adam(net(d, 20), ritz.Natural(), ritz.MonteCarlo(512)), fine_points(box(d)),
        )  # fmt: skip


def eigen() -> Iterator[Case]:
    """-Δ on (0, 1)^d, λ = d π²."""
    for d, paper in ((1, 0.0020), (5, 0.0011), (10, 0.0643)):
        yield _eigenvalue("well", d, paper, 0.0, 1.0, d * math.pi**2, None)


def oscillator() -> Iterator[Case]:
    """-Δ + |x|² on (-3, 3)^d."""
    one = elements.least_eigenvalue(-3.0, 3.0, 1500, lambda t: t * t)
    for d, paper in ((1, 0.0016), (5, 0.016), (10, 0.126)):
        yield _eigenvalue("oscillator", d, paper, -3.0, 3.0, d * one, lambda t: t * t)


def _eigenvalue(name, d, paper, a, b, exact, potential):
    domain, middle = box(d, a, b), (a + b) / 2
    V = 0.0 if potential is None else lambda x: x @ x
    rule = ritz.Centred if potential is None else Bell
    points = ritz.Gauss(4, 8) if d == 1 else rule(2**13, fixed=True)
    drawn = ritz.Gauss(4, 8) if d == 1 else rule(512)
    many = rule(2**16, fixed=True, seed=5)
    fine = many.rule(domain, jax.random.key(0)) if d > 1 else domain.gauss(6, 20)
    width = 10 if potential is None else max(10, 2 * d)
    inner = net(d, width, middle, (b - a) / 2, scale=1.0 / (b - a))
    model = lambda key: Positive(inner(key))
    usual = adam(model, ritz.Natural(), drawn)
    # In the large box 30 metric steps alone are not enough with some seeds.
    metric = ritz.LevenbergMarquardt()
    before = usual if potential is not None and d > 1 else None
    return Case(
        f"{name}, d = {d}", paper,
        lambda n: elements.eigenvalue(a, b, d, n, exact, potential),
        ritz.ground_state(domain.distance, V), domain,
        lambda found: abs(found.energy - exact) / exact,
        Recipe(model, ritz.Natural(), points, 30, metric, before), usual, fine,
    )  # fmt: skip


def hundred() -> Iterator[Case]:
    """-Δu = -200 in (0, 1)^100, u = Σ x². A constant is 8.9 % off, a linear function
    2.2 %."""
    u, domain = lambda x: x @ x, box(100)
    model = net(100, 100, activation=jax.nn.softplus)
    yield Case(
        "100-D", 0.022, lambda n: None, ritz.poisson(-200.0), domain,
        in_l2(u, random(domain)), None,
        adam(model, ritz.Penalty(u, 500.0), ritz.Sobol(512, 1024), 4000),
        fine_points(domain),
    )  # fmt: skip


CASES = {
    f.__name__: f for f in (square, slit, harmonic, neumann, eigen, oscillator, hundred)
}
