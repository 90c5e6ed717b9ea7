"""Optimisers of `pi.ritz`: what each finds on one problem, and its state."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi
from pyimplicit import ritz
from pyimplicit.ritz.functional import Discrete, Functional
from pyimplicit.ritz.optimizers.natural import by_modulus
from pyimplicit.ritz.stalled import refused

from .ritz_problems import PROBLEMS, relative


DISK, SQUARE, INTERVAL, BALL = PROBLEMS
KEY = jax.random.key(0)


class Quadratic(eqx.Module):
    """c·φ(x), linear in its parameters: the disk's solution is 0 - and c = 1/2 with the
    distance (1 - r²)/2."""

    c: jax.Array

    def __call__(self, x):
        return self.c @ jnp.array([1.0, x[0], x[1], x[0] * x[1], x[0] ** 2 + x[0]])


def linear(optimizer, steps: int):
    return ritz.solve(
        DISK.energy, DISK.domain, ritz.Exact(), Quadratic(jnp.ones(5)),
        quadrature=ritz.Gauss(4, 1), optimizer=optimizer, steps=steps, report_every=steps,
        reference=DISK.least,
    )  # fmt: skip


@pytest.mark.parametrize(
    "optimizer, steps",
    [
        (ritz.NaturalGradient(damping=(1e-15,), lengths=2), 1),
        (ritz.NaturalGradient(pi.MatrixFree(), (1e-14,), 2, rtol=1e-13), 1),
        (ritz.LevenbergMarquardt(start=1e-14), 1),
        (ritz.LevenbergMarquardt(pi.MatrixFree(), 1e-14, rtol=1e-13), 1),
        (ritz.LevenbergMarquardt(), 15),
        (ritz.LBFGS(memory=5), 30),
    ],
    ids=["natural", "natural, products", "LM", "LM, products", "LM, damped", "L-BFGS"],
)
def test_linear_models_are_solved(optimizer, steps):
    """Newton's step in function space is exact where the model is linear."""
    found = linear(optimizer, steps)
    np.testing.assert_allclose(found.theta, [0.5, 0, 0, 0, 0], atol=1e-6)
    assert abs(found.history[-1].gap) < 1e-12


def test_networks_of_an_interval():
    """L-BFGS comes near, Levenberg–Marquardt far nearer."""
    errors = {}
    for optimizer, steps in ((ritz.LBFGS(), 50), (ritz.LevenbergMarquardt(), 100)):
        model = ritz.MLP(
            1, 10, 1, activation=jnp.sin, scale=3.0, centre=0.5, reach=0.5, key=KEY
        )
        found = ritz.solve(
            INTERVAL.energy, INTERVAL.domain, ritz.Exact(), model,
            quadrature=ritz.Gauss(4, 6), optimizer=optimizer, steps=steps,
            report_every=50, reference=INTERVAL.least,
        )  # fmt: skip
        assert all(row.gap > -1e-12 for row in found.history)
        assert found.steps == steps and "stalled" not in found.message
        errors[type(optimizer).__name__] = relative(found.field, INTERVAL)
    assert errors["LBFGS"] < 2e-3 and errors["LevenbergMarquardt"] < 3e-6


CONTACT = 1 - 1 / math.sqrt(2)
WALL = math.tanh(3 / (0.5 * math.sqrt(2)))  # u at the ends of the interval
# Energy, half of the interval, boundary values, least energy, how near.
READY = {
    "Allen-Cahn": (
        ritz.ginzburg_landau(0.5), 3.0, lambda x: WALL * x[0] / 3, math.sqrt(2) / 3, 1e-3),
    "obstacle": (
        ritz.obstacle(lambda x: 0.5 - x[0] ** 2), 1.0, 0.0,
        4 * CONTACT**3 / 3 + 4 * CONTACT**2 * (1 - CONTACT), 2e-3),
    "p-Laplace": (ritz.p_laplacian(3.0, 1.0), 1.0, 0.0, -8 / 15, 5e-4),
}  # fmt: skip


@pytest.mark.parametrize("name", READY)
def test_energies_that_are_not_quadratic_are_solved(name):
    """Allen and Cahn's is not convex: where the network starts the metric is indefinite,
    and steps by Newton's formula would lead uphill."""
    energy, half, g, least, tol = READY[name]
    domain = ritz.Box([-half], [half])
    found = ritz.solve(
        energy, domain, ritz.Exact(g), ritz.MLP(1, 8, 1, scale=3.0, reach=half, key=KEY),
        quadrature=ritz.Gauss(4, 12), fine=domain.gauss(6, 20), steps=40, report_every=40,
        optimizer=ritz.NaturalGradient(damping=(1e-3, 1e-9), lengths=8),
    )  # fmt: skip
    assert found.energy == pytest.approx(least, abs=tol)


def test_steps_at_a_saddle_lead_downhill():
    G = jnp.diag(jnp.array([2.0, -4.0]))
    steps = by_modulus(G, jnp.array([1.0, 1.0]), jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(steps, [[-1 / 2, -1 / 4], [-1 / 3, -1 / 5]], rtol=1e-12)


def test_a_step_that_raises_the_energy_is_not_taken():
    """The first step from far away on a quartic density is too long for its model."""
    quartic = lambda x, u, g: 0.25 * (g @ g) ** 2 - 5.0 * jnp.cos(20 * u)
    model = ritz.MLP(2, 4, 1, key=KEY)
    f = Functional(ritz.Energy(quartic), DISK.domain, ritz.Exact(), model)
    problem = Discrete(f, ritz.Gauss(2, 2).rule(DISK.domain), 0)
    optimizer = ritz.LevenbergMarquardt(start=1e-12)

    @jax.jit
    def run(theta):
        def step(carry, _):
            theta, state = carry
            new, state, info = optimizer.step(problem, theta, state)
            return (new, state), (info, state.damping)

        return jax.lax.scan(step, (theta, optimizer.init(theta)), None, length=25)[1]

    info, damping = run(3 * f.theta)
    stayed = info.length[:-1] == 0
    assert bool(stayed.any()) and bool((~stayed).any())
    energies = np.asarray(info.energy)
    assert (np.diff(energies) <= 1e-12).all()
    np.testing.assert_array_equal(np.diff(energies)[np.asarray(stayed)], 0)
    grew = jnp.diff(damping)[:-1] > 0
    assert bool(grew[stayed[1:]].all())
    assert bool(jnp.isnan(info.decrement[:-1][stayed]).all())


BAD: Any = ritz.LevenbergMarquardt


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: ritz.LBFGS(memory=0), "positive whole"),
        (lambda: ritz.LBFGS(max_search=-1), "positive whole"),
        (lambda: BAD("dense"), "MatrixFree"),
        (lambda: BAD(start=1e-20), "least <= start"),
        (lambda: BAD().init(jnp.zeros(2, jnp.float32)), "double precision"),
    ],
)
def test_bad_options_are_refused(call, words):
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        call()
    assert "Got" in str(caught.value)


def test_functions_that_jump_between_nodes_are_seen():
    """On few nodes an energy has no lower bound: u jumps to large values between them.
    Steps are judged on other nodes too, so that the energy on a fine rule goes down."""
    corner = ritz.Slit().corner
    net = ritz.Features((None, corner), ritz.MLP(4, 8, 1, key=KEY))
    slit = ritz.Slit()
    f = Functional(ritz.poisson(1.0, reaction=1.0), slit, ritz.Exact(), net)
    rule, other, fine = (slit.gauss(n, 1) for n in (4, 5, 8))
    optimizer = ritz.LevenbergMarquardt()

    @jax.jit
    def run(theta, judge):
        def step(carry, _):
            on = Discrete(f, rule, 0, check=jax.tree.map(jnp.asarray, judge))
            *carry, _ = optimizer.step(on, *carry)
            return tuple(carry), None

        start = theta, optimizer.init(theta)
        end: Any = jax.lax.scan(step, start, None, length=30)[0]
        theta = end[0]
        return Discrete(f, rule, 0).value(theta), f.pure(theta, fine)

    alone, judged = run(f.theta, rule), run(f.theta, other)
    assert alone[0] < -0.2 and alone[1] > -0.1  # wonderful, on its own nodes
    assert abs(judged[1] - judged[0]) < 3e-3 and judged[1] < -0.143


def test_a_solve_that_stalls_says_why():
    """31 parameters on six nodes: what lowers the energy there raises it on the nodes that
    judge, and no damping helps."""
    net = ritz.MLP(1, 10, 1, activation=jnp.sin, scale=3.0, centre=0.5, reach=0.5, key=KEY)
    found = ritz.solve(
        INTERVAL.energy, INTERVAL.domain, ritz.Exact(), net, quadrature=ritz.Gauss(3, 2),
        optimizer=ritz.LevenbergMarquardt(), steps=200, report_every=20,
    )  # fmt: skip
    assert not found.converged and found.steps < 100
    for words in ("stalled", "6 + 2 nodes", "31 parameters", "opposite", "more nodes"):
        assert words in found.message
    assert "stalled" in str(found)


def test_refused_steps_are_counted_across_reports():
    assert refused(jnp.array([1.0, 0.0, 0.0]), 7) == 2
    assert refused(jnp.array([0.0, 0.0]), 7) == 9
    assert refused(jnp.array([0.0, 0.5]), 7) == 0
