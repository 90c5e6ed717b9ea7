"""Deep Ritz beside the paper (E, Yu 2018), linear finite elements and Adam.

    python -m tests.bench.ritz [square slit harmonic neumann eigen oscillator hundred]
                               [--seeds 3] [--adam 2000]

Double precision. Errors are relative; of functions in L². "Metric" is Levenberg-Marquardt
in function space, the median over the seeds, "spread" its least and largest. "Elements"
are linear ones with at most as many unknowns as the network has parameters; nothing where
no grid has so few. Adam: as many steps as asked for on nodes that are drawn again.

What to know when reading: the slit's network gets the two functions r^(1/2) (cos, sin)(θ/2)
of the tip, of which the solution is one (Adam's is the paper's own, of x alone). The
harmonic polynomial in ten dimensions is itself a multilinear element. The eigenvalue
problem's distance function alone, without a network, is 1.3 % off. The oscillator is
measured against the eigenvalue of the box, 1.00080 d; the paper against d.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from rich.console import Console
from rich.table import Table

from pyimplicit import ritz

from . import ritz_elements as elements


class Positive(eqx.Module):
    """exp of a network: a first eigenfunction has one sign."""

    net: ritz.MLP

    def __call__(self, x):
        return jnp.exp(self.net(x))


class Case(NamedTuple):
    """One row. `model`, `plain`: key -> the network of the metric, and of Adam."""

    label: str
    paper: float | None
    elements: Callable[[int], float | None]
    energy: ritz.Energy
    domain: ritz.AbstractDomain
    boundary: ritz.AbstractBoundary
    model: Callable
    error: Callable[[ritz.RitzResult], float]
    quadrature: ritz.AbstractQuadrature
    steps: int
    plain: Callable | None = None
    fine: Any = None
    optimizer: ritz.AbstractOptimizer = ritz.LevenbergMarquardt()
    drawn: ritz.AbstractQuadrature = ritz.MonteCarlo(512, 512)


def box(d, a=0.0, b=1.0):
    return ritz.Box([a] * d, [b] * d)


def net(d, width, centre=0.5, reach=0.5, **more):
    return lambda key: ritz.MLP(d, width, 1, centre=centre, reach=reach, key=key, **more)


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


def square():
    u = lambda x: jnp.prod(jnp.sin(math.pi * x))
    energy = ritz.poisson(lambda x: 2 * math.pi**2 * u(x))
    yield Case(
        "2-D Poisson", None, elements.square, energy, box(2), ritz.Exact(),
        net(2, 24, activation=jnp.sin, scale=3.0), in_l2(u, random(box(2))),
        ritz.Gauss(4, 6), 300,
    )  # fmt: skip


def slit():
    domain = ritz.Slit()
    u = lambda x: domain.corner(x)[1]
    x, w, _ = domain.gauss(6, 6).interior
    model = lambda key: ritz.Features((None, domain.corner), ritz.MLP(4, 20, 1, key=key))
    small = lambda key: jax.tree.map(lambda a: 0.5 * a, ritz.ReLU3(2, 10, 4, key=key))
    yield Case(
        "slit, r^(1/2) sin(θ/2)", 0.0072, elements.slit, ritz.poisson(), domain,
        ritz.Penalty(u, 1e4), model, in_l2(u, (x, w)), ritz.Gauss(6, 2), 60, small,
    )  # fmt: skip


def harmonic():
    u, ten = lambda x: jnp.sum(x[::2] * x[1::2]), box(10)
    yield Case(
        "10-D harmonic", 0.004, lambda n: None, ritz.poisson(), ten,
        ritz.Penalty(u, 1e3), net(10, 30), in_l2(u, random(ten)),
        ritz.Sobol(2048, 4096, fixed=True), 60, fine=fine_points(ten),
    )  # fmt: skip


def neumann():
    u = lambda x: jnp.sum(jnp.cos(math.pi * x))
    energy = ritz.poisson(lambda x: 2 * math.pi**2 * u(x), reaction=math.pi**2)
    for d, paper in ((5, 0.013), (10, 0.019)):
        yield Case(
            f"Neumann, d = {d}", paper, lambda n, d=d: elements.neumann(d, n), energy,
            box(d), ritz.Natural(), net(d, 20), in_l2(u, random(box(d))),
            ritz.Sobol(4096, fixed=True), 40, fine=fine_points(box(d)),
        )  # fmt: skip


def fine_points(domain):
    return ritz.Sobol(2**13, 1, fixed=True, seed=1).rule(domain, jax.random.key(0))


def eigen():
    for d, paper in ((1, 0.0020), (5, 0.0011), (10, 0.0643)):
        yield _eigenvalue("well", d, paper, 0.0, 1.0, d * math.pi**2, None)


def oscillator():
    one = elements.least_eigenvalue(-3.0, 3.0, 1500, lambda t: t * t)
    for d, paper in ((1, 0.0016), (5, 0.016), (10, 0.126)):
        yield _eigenvalue("oscillator", d, paper, -3.0, 3.0, d * one, lambda t: t * t)


def _eigenvalue(name, d, paper, a, b, exact, potential):
    domain, middle = box(d, a, b), (a + b) / 2
    V = 0.0 if potential is None else lambda x: x @ x
    points = ritz.Gauss(4, 8) if d == 1 else ritz.Centred(2**13, fixed=True)
    many = ritz.Centred(2**16, fixed=True, seed=5)
    fine = many.rule(domain, jax.random.key(0)) if d > 1 else domain.gauss(6, 20)
    inner = net(d, 10, middle, (b - a) / 2, scale=1.0 / (b - a))
    return Case(
        f"{name}, d = {d}", paper,
        lambda n: elements.eigenvalue(a, b, d, n, exact, potential),
        ritz.ground_state(domain.distance, V), domain, ritz.Natural(),
        lambda key: Positive(inner(key)), lambda found: abs(found.energy - exact) / exact,
        points, 30, fine=fine,
        drawn=ritz.Gauss(4, 8) if d == 1 else ritz.Centred(512),
    )  # fmt: skip


def hundred():
    """-Δu = -200 in (0, 1)^100, u = Σ x². A constant is 8.9 % off."""
    u, domain = lambda x: x @ x, box(100)
    yield Case(
        "100-D", 0.022, lambda n: None, ritz.poisson(-200.0), domain,
        ritz.Penalty(u, 1e3), net(100, 100), in_l2(u, random(domain)),
        ritz.Sobol(1024, 2048), 200, fine=fine_points(domain),
        optimizer=ritz.Adam(optax.cosine_decay_schedule(1e-2, 200)),
    )  # fmt: skip


RUNS = {
    f.__name__: f for f in (square, slit, harmonic, neumann, eigen, oscillator, hundred)
}


def solved(case: Case, key, model, optimizer, quadrature, steps) -> tuple[float, float]:
    """Error and seconds."""
    begin = time.perf_counter()
    found = ritz.solve(
        case.energy, case.domain, case.boundary, model(key), quadrature=quadrature,
        optimizer=optimizer, steps=steps, report_every=max(steps // 3, 1), key=key,
        fine=case.fine, progress=False, rtol=1e-16,
    )  # fmt: skip
    return case.error(found), time.perf_counter() - begin


def row(case: Case, seeds: int, adam: int) -> list[str]:
    keys = [jax.random.key(seed) for seed in range(seeds)]
    size = ritz.count(case.model(keys[0]))
    how = case.model, case.optimizer, case.quadrature, case.steps
    runs = [solved(case, key, *how) for key in keys]
    errors = sorted(error for error, _ in runs)
    rate = ritz.Adam(optax.cosine_decay_schedule(5e-3, max(adam, 1)), clip=10.0)
    plain = case.plain or case.model
    adams = [solved(case, key, plain, rate, case.drawn, adam)[0] for key in keys if adam]
    number = lambda a: "" if a is None else f"{a:.2g}"
    return [
        case.label, str(size), number(case.paper), number(case.elements(size)),
        number(statistics.median(adams) if adams else None),
        number(statistics.median(errors)), f"{errors[0]:.2g} - {errors[-1]:.2g}",
        f"{statistics.median(s for _, s in runs):.0f}",
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", help=", ".join(RUNS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--adam", type=int, default=2000, help="steps; 0: none")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    table = Table(title="Deep Ritz: relative errors")
    heads = ("", "parameters", "paper", "elements", "Adam", "metric", "spread", "seconds")
    for head in heads:
        table.add_column(head, justify="right")
    for name in args.runs or [name for name in RUNS if name != "hundred"]:
        for case in RUNS[name]():
            cells = row(case, args.seeds, args.adam)
            table.add_row(*cells)
            print(*cells, sep=" | ", flush=True)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
