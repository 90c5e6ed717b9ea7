"""Energies in closed form on each rule and with each treatment of the boundary; rates."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import ritz
from pyimplicit.ritz import jets
from pyimplicit.ritz.functional import Discrete, Functional

from .ritz_problems import PROBLEMS, plate


KEY = jax.random.key(0)
PI = math.pi
LOG = math.log(1 + math.sqrt(2))
N = 4096


class Case(NamedTuple):
    """u, the solution or not, and its energy; for treatments `w`, any function, and
    `slope`, the derivative of the energy at u along w: ∫ w σ·n ds for the solution."""

    domain: ritz.AbstractDomain
    energy: ritz.Energy
    u: Callable
    value: float
    w: Callable | None = None
    slope: float = 0.0


def box(d: int):
    return ritz.Box([0] * d, [1] * d)


def ten(x):
    return jnp.sum(x[::2] * x[1::2])


def cosines(x):
    return jnp.sum(jnp.cos(PI * x))


def neumann(d: int):
    energy = ritz.poisson(lambda x: 2 * PI**2 * cosines(x), reaction=PI**2)
    return Case(box(d), energy, cosines, -d * PI**2 / 2)


def tip(x):
    return ritz.Slit().corner(x)[1]


def half_disk(x):
    """Zero on the boundary of the upper half of the unit disk."""
    return x[1] * (1 - x @ x)


GIVEN = {p.name: Case(p.domain, p.energy, p.u, p.least) for p in PROBLEMS}
CASES = {
    **GIVEN,
    "disk": GIVEN["disk"]._replace(w=lambda x: 1 + x[0], slope=-PI),
    "slit": Case(ritz.Slit(), ritz.poisson(), tip, LOG, tip, 2 * LOG),
    "plate": Case(ritz.Box([-1, -1], [1, 1]), ritz.poisson(1.0), plate, -0.28115403,
                  lambda x: 1 + x[0], -4.0),
    # -Δ(y (1 - r²)) = 8y; twice the half, as the density is even: -π/6 each.
    "semicircle": Case(
        ritz.Ball(2), ritz.poisson(lambda x: 8 * jnp.abs(x[1])), lambda x: jnp.abs(
            half_disk(x)), -PI / 3),
    "10-D harmonic": Case(box(10), ritz.poisson(), ten, 5 / 3, ten, 10 / 3),
    "100-D": Case(box(100), ritz.poisson(-200.0), lambda x: x @ x, 20200 / 3),
    "5-D Neumann": neumann(5),
    "10-D Neumann": neumann(10),
}  # fmt: skip


class Two(eqx.Module):
    """u + a w."""

    u: Callable = eqx.field(static=True)
    w: Callable = eqx.field(static=True)
    a: jax.Array = eqx.field(default_factory=lambda: jnp.zeros(()))

    def __call__(self, x):
        return self.u(x) + self.a * self.w(x)


def rules_of(case: Case) -> tuple:
    plain = Functional(case.energy, case.domain, ritz.Natural(), Two(case.u, case.u))
    importance = ritz.Importance(lambda x: 1 + jnp.mean(x**2), N, N, 2)
    adaptive = ritz.Adaptive(n=N, n_boundary=N, candidates=2)
    return (
        lambda key: ritz.MonteCarlo(N, N).rule(case.domain, key),
        lambda key: ritz.Sobol(N, N).rule(case.domain, key),
        lambda key: importance.rule(case.domain, key),
        lambda key: adaptive.at(plain, plain.theta, key),
    )


ROUGH = {"semicircle": 2e-4, "plate": 5e-5}  # a kink; r² log r at the corners


@pytest.mark.parametrize("name", CASES)
def test_energies_on_each_rule(name):
    """Gauss to its order; random nodes within four standard deviations of their mean,
    which are a few per cent at most; Sobol's within half of one."""
    case = CASES[name]
    dim = case.domain.dim
    cells = 6 if case.domain.parts == 1 else 2
    gauss = ritz.Gauss(4, cells).rule(case.domain) if dim <= 3 else None

    @jax.jit
    def look(key):
        density = lambda x: case.energy.density(x, *jets.first(case.u, x, dim))
        inside = [rule(key).interior for rule in rules_of(case)]
        if gauss is not None:
            inside.append(gauss.interior)
        return [(n.w, jax.vmap(density)(n.x)) for n in inside]

    random, sobol, *chosen = look(KEY)
    exact = [chosen.pop()] if gauss is not None else []
    for w, e in exact:
        tol = ROUGH.get(name, 1e-7)
        assert float(w @ e) == pytest.approx(case.value, rel=tol)
    uniform = case.domain.volume * float(jnp.std(random[1])) / N**0.5
    assert uniform < 0.05 * abs(case.value)
    assert float(random[0] @ random[1]) == pytest.approx(case.value, abs=4 * uniform)
    assert float(sobol[0] @ sobol[1]) == pytest.approx(case.value, abs=uniform / 2)
    for w, e in chosen:  # what the candidates and what the choice may be off by
        spread = (uniform**2 / 2 + float(jnp.var(w * e)) * N) ** 0.5
        assert spread < 0.05 * abs(case.value)
        assert float(w @ e) == pytest.approx(case.value, abs=4 * spread)


# Of u: mean, mean square, and how far the best constant is off, relative in L².
MOMENTS = {
    "slit": (None, (math.sqrt(2) + LOG) / 6, None),
    "plate": (0.28115403 / 2, 0.33009192**2 / 4, None),
    "10-D harmonic": (5 / 4, 65 / 36, 0.367),
    "100-D": (100 / 3, 1120.0, 0.089),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_sizes_of_solutions(name):
    """What errors are relative to, on the rule of reports: in 100 dimensions a constant is
    wrong by a twelfth only, so that a few per cent say little."""
    domain, _, u, *_ = CASES[name]
    (x, w, _), (mean, square, constant) = ritz.fine_rule(domain).interior, MOMENTS[name]
    values = jax.jit(jax.vmap(u))(x)
    found = w @ jnp.stack([values, values**2], 1) / domain.volume
    assert float(found[1]) == pytest.approx(square, rel=2e-3)
    assert mean is None or float(found[0]) == pytest.approx(mean, rel=1e-3)
    if constant is not None:
        off = 1 - found[0] ** 2 / found[1]
        assert float(off) ** 0.5 == pytest.approx(constant, abs=1e-3)
    assert float(plate(jnp.array([-0.5, 0.0]))) == pytest.approx(0.22933963, rel=1e-7)


TREATMENTS: dict[str, Callable[[Any], ritz.AbstractBoundary]] = {
    "natural": lambda u: ritz.Natural(),
    "penalty": lambda u: ritz.Penalty(u, 3.0),
    "Nitsche": lambda u: ritz.Nitsche(u, 3.0),
    "multiplier": lambda u: ritz.LagrangeMultiplier(u, 0.5, space=1),
    "augmented": lambda u: ritz.AugmentedLagrangian(u, 5.0, space=1),
    "exact": lambda u: ritz.Exact(u),
}


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.w])
def test_energies_with_each_treatment(name):
    """At the solution a treatment adds nothing, on any rule. Along w the derivative is
    ∫ w σ·n; the penalty leaves it (its bias), Nitsche's flux takes it away, a multiplier λ
    adds ∫ λ w; with λ = -σ·n that would be zero as well."""
    case = CASES[name]
    domain, energy, u, w = case.domain, case.energy, case.u, case.w
    assert w is not None
    model, none = Two(u, w), Two(lambda x: 0.0, w)
    functionals = {
        name: Functional(energy, domain, make(u), none if name == "exact" else model)
        for name, make in TREATMENTS.items()
    }

    def treated(rule):
        table = []
        for f in functionals.values():
            held: Any = f.boundary.init(f)
            if held != ():  # any multiplier adds nothing at the solution
                held = held._replace(c=1.0 + held.c)
            value = Discrete(f, rule, 0, held).value
            total, slope = jax.value_and_grad(value)(f.theta)
            table.append(jnp.stack([total, slope[0]]))

        def around(x, n):
            q = jets.first(u, x, domain.dim)[1]
            flux = n @ jax.grad(lambda q: energy.density(x, u(x), q))(q)
            return jnp.stack([flux * w(x), multiplier(x, n) * w(x)])

        f = functionals["multiplier"]
        held: Any = f.boundary.init(f)
        multiplier: Any = f.boundary.multiplier(held._replace(c=1.0 + held.c))
        nodes = rule.boundary
        return jnp.stack(table), nodes.w @ jax.vmap(around)(nodes.x, nodes.normal)

    @jax.jit
    def look(key):
        rules = [rule(key) for rule in rules_of(case)]
        return jax.vmap(treated)(jax.tree.map(lambda *a: jnp.stack(a), *rules))

    tables, sums = look(KEY)
    for table, (flux, added) in zip(np.asarray(tables), np.asarray(sums), strict=True):
        of = dict(zip(TREATMENTS, table, strict=True))
        values, plain = table[:, 0], of["natural"][1]
        np.testing.assert_allclose(values, values[0], rtol=1e-10)
        wanted = {"penalty": plain, "Nitsche": plain - flux,
                  "multiplier": plain + added, "augmented": plain + added}  # fmt: skip
        for treatment, slope in wanted.items():
            assert of[treatment][1] == pytest.approx(slope, rel=1e-8, abs=1e-8), treatment
        assert flux == pytest.approx(case.slope, rel=0.1)
    sobol = tables[1]
    assert float(sobol[0, 1]) == pytest.approx(case.slope, rel=2e-2)
    assert abs(float(sobol[2, 1])) < 5e-2 * abs(case.slope)  # Nitsche: stationary


# --- rates -----------------------------------------------------------------------------


def test_rates_of_rules():
    """Random points, also chosen ones, n^(-1/2), Sobol's nearly n^(-1), three Gauss points
    h^6; p points are exact for degree 2p - 1 and not for the next."""
    fn = lambda x: jnp.exp(x[0] - 2 * x[1] ** 2)
    exact = (math.e - 1) * math.sqrt(PI / 8) * math.erf(math.sqrt(2))
    domain = box(2)
    f = Functional(ritz.Energy(lambda x, u, g: u), domain, ritz.Natural(), Two(fn, fn))
    integral = lambda nodes: nodes.w @ jax.vmap(fn)(nodes.x)
    kinds = (
        lambda n, key: ritz.MonteCarlo(n).rule(domain, key),
        lambda n, key: ritz.Importance(fn, n, 1, 2).rule(domain, key),
        lambda n, key: ritz.Adaptive(None, n, 1, 2).at(f, f.theta, key),
        lambda n, key: ritz.Sobol(n).rule(domain, key),
    )

    @jax.jit
    def errors(keys):
        def one(key):
            return jnp.stack([
                jnp.stack([integral(kind(n, key).interior) - exact for kind in kinds])
                for n in (64, 2048)
            ])  # fmt: skip

        return jnp.sqrt(jnp.mean(jax.vmap(one)(keys) ** 2, axis=0))

    few, many = np.asarray(errors(jax.random.split(KEY, 128)))
    rates = np.log(few / many) / math.log(2048 / 64)
    np.testing.assert_allclose(rates[:3], 0.5, atol=0.1)
    assert 0.85 < rates[3] < 1.6
    gauss = [abs(float(integral(domain.gauss(3, n).interior)) - exact) for n in (2, 8)]
    assert math.log(gauss[0] / gauss[1]) / math.log(4) == pytest.approx(6, abs=0.5)
    for points in (1, 2, 3):
        x, w, _ = domain.gauss(points, 1).interior
        power = lambda k, x=x, w=w: float(w @ (x[:, 0] ** k * x[:, 1] ** k)) * (k + 1) ** 2
        assert power(2 * points - 1) == pytest.approx(1, rel=1e-12)
        assert power(2 * points) < 0.999


# --- least squares ---------------------------------------------------------------------


LEAST_SQUARES = {
    "PINN": (ritz.pinn, ritz.Exact(), None),
    "FOSLS": (ritz.fosls, ritz.Exact(components=(0,)), 2),
}


@pytest.mark.parametrize("name", LEAST_SQUARES)
def test_least_squares_are_trained_to_the_solution(name):
    """-2u'' + u = f with u = sin πx, from one network, and for FOSLS the flux σ = 2u' from
    another of its outputs; the energy falls to zero."""
    make, boundary, out = LEAST_SQUARES[name]
    f = lambda x: (2 * PI**2 + 1) * jnp.sin(PI * x[0])
    net = ritz.MLP(1, 8, 1, activation=jnp.sin, out=out, scale=3.0, centre=0.5, reach=0.5,
                   key=KEY)  # fmt: skip
    found = ritz.solve(
        make(f, kappa=2.0, reaction=1.0), box(1), boundary, net, steps=60,
        quadrature=ritz.Gauss(4, 4), optimizer=ritz.LevenbergMarquardt(), report_every=60,
        fine=ritz.Gauss(6, 4).rule(box(1)),
    )  # fmt: skip
    x = jnp.linspace(0.0, 1.0, 21)[:, None]
    u = found.u(x).reshape(21, -1).T
    wanted = jnp.stack([jnp.sin(PI * x[:, 0]), 2 * PI * jnp.cos(PI * x[:, 0])])
    start, end = found.history[0].energy, found.history[-1].energy
    assert 0 <= end < 1e-6 * start
    for mine, exact in zip(u, wanted, strict=False):
        assert float(jnp.abs(mine - exact).max() / jnp.abs(exact).max()) < 2e-4
