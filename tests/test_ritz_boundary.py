"""Boundary treatments of `pi.ritz` on a problem whose solution the model can be.

-Δu + u = f on the disk, u = (1 - r²)/4 + x² - y², least energy 27π/32; the flux through
the boundary is -1/2 + 2 (x² - y²). The model is the polynomials of degree two, so that each
minimiser is one linear solve.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pyimplicit import ritz
from pyimplicit.ritz.functional import Discrete, Functional


KEY = jax.random.key(0)
DISK = ritz.Ball(2)
LEAST = 27 * math.pi / 32


def bump(x):
    return (1 - x @ x) / 4


def saddle(x):
    return x[0] ** 2 - x[1] ** 2


def solution(x):
    return bump(x) + saddle(x)


ENERGY = ritz.poisson(lambda x: 1 + solution(x), reaction=1.0)


class Quadratic(eqx.Module):
    """A polynomial of degree two."""

    c: jax.Array = eqx.field(default_factory=lambda: jnp.zeros(6))

    def __call__(self, x):
        return self.c @ jnp.stack([1.0 + 0 * x[0], x[0], x[1], x[0] ** 2, x[0] * x[1],
                                   x[1] ** 2])  # fmt: skip


def minimiser(boundary, moves=1, energy=ENERGY, domain=DISK, model=None):
    """rule -> the field, λ, the energy and the miss on the boundary (fine rule), after
    `moves` of what the treatment holds; compiled once for rules of one size."""
    f = Functional(energy, domain, boundary, Quadratic() if model is None else model)
    fine = ritz.Gauss(4, 2).rule(domain)
    start = boundary.init(f)

    @jax.jit
    def run(rule):
        def move(i, carry):
            theta, held = carry
            problem = Discrete(f, rule, i, held)
            slope = lambda theta: jax.grad(problem.value)(theta)
            g, push = jax.linearize(slope, theta)
            H = jax.vmap(push)(jnp.eye(theta.size))
            theta = theta - jnp.linalg.solve(H, g)  # quadratic: one Newton step
            return theta, boundary.advance(held, problem, theta)

        theta, held = jax.lax.fori_loop(0, moves, move, (f.theta, start))
        return theta, held, f.pure(theta, fine), f.violation(theta, fine)

    def minimised(rule):
        theta, held, energy, miss = run(rule)
        return f.field(theta), boundary.multiplier(held), float(energy), float(miss)

    return minimised


def padded(rule, n=4096, n_boundary=1024):
    """The rule with nodes of no weight, to this size."""

    def pad(a, n):
        more = np.repeat(np.asarray(a)[:1], n - len(a), axis=0)
        return np.concatenate([a, 0 * more if a.ndim == 1 else more])

    fill = lambda nodes, n: ritz.Nodes(*(None if a is None else pad(a, n) for a in nodes))
    return ritz.Rule(fill(rule.interior, n), fill(rule.boundary, n_boundary))


# And how far the energy and the values may be off: random nodes by 1/64, the root of one
# over their number, for each standard deviation.
RULES = {
    "Gauss": (ritz.Gauss(4, 2), 1e-9),
    "Sobol": (ritz.Sobol(4096, 1024), 3e-3),
    "random": (ritz.MonteCarlo(4096, 1024), 0.05),
    "importance": (ritz.Importance(lambda x: 1 + x @ x, 4096, 1024, 4), 0.05),
}
TREATMENTS = {
    "exact": (ritz.Exact(saddle), 1),
    "Nitsche": (ritz.Nitsche(saddle, 20.0), 1),
    "augmented": (ritz.AugmentedLagrangian(saddle, 20.0, space=1), 40),
    "multiplier": (ritz.LagrangeMultiplier(saddle, 0.5, space=1), 300),
}


@pytest.mark.parametrize("name", TREATMENTS)
def test_closed_forms_for_each_rule_and_treatment(name):
    boundary, moves = TREATMENTS[name]
    minimised, x = minimiser(boundary, moves), DISK.sample(KEY, 20)
    for quadrature, tol in RULES.values():
        rule = padded(quadrature.rule(DISK, KEY))
        field, multiplier, energy, miss = minimised(rule)
        assert energy == pytest.approx(LEAST, abs=tol)
        np.testing.assert_allclose(jax.vmap(field)(x), jax.vmap(solution)(x), atol=tol)
        assert math.isnan(miss) if name == "exact" else miss < max(3 * tol, 1e-9)
        if moves > 1 and tol < 1e-3:  # the multiplier is -σ·n
            n = jnp.array([0.6, 0.8])
            flux = float(multiplier(n, n))
            assert flux == pytest.approx(0.5 - 2 * float(saddle(n)), rel=1e-7)


def test_the_penalty_is_off_by_one_over_its_weight():
    """And on a schedule it is that of the step."""
    rule = ritz.Gauss(4, 2).rule(DISK)
    growing = ritz.Penalty(saddle, optax.exponential_decay(50.0, 1, 2.0))
    misses = []
    for i in range(3):  # 50, 100, 200: the weight of the last step counts
        *_, energy, miss = minimiser(growing, i + 1)(rule)
        misses.append(miss * 50 * 2**i)
        assert energy < LEAST
    flux = math.sqrt(2 * math.pi * (1 / 4 + 4 / 2)) / 2  # of the solution, over two
    np.testing.assert_allclose(misses, flux, rtol=0.05)
    ratio = (misses[1] - misses[2]) / (misses[0] - misses[1])
    assert ratio == pytest.approx(0.5, abs=0.05)
    *_, fixed = minimiser(ritz.Penalty(saddle, 200.0))(rule)
    assert fixed * 200 == pytest.approx(misses[2], rel=1e-9)


def test_the_penalty_moves_a_disk_up():
    """-Δu = 1: u = (1 - r²)/4 + 1/(4 weight), and the energy falls below the least one,
    so that energies without a word on the treatment of the boundary mean little."""
    minimised = minimiser(ritz.Penalty(0.0, 5.0), energy=ritz.poisson(1.0))
    field, _, energy, miss = minimised(ritz.Gauss(3, 1).rule(DISK))
    x = DISK.sample(KEY, 20)
    np.testing.assert_allclose(jax.vmap(field)(x), jax.vmap(bump)(x) + 0.05, atol=1e-12)
    assert miss == pytest.approx(math.sqrt(2 * math.pi) * 0.05, rel=1e-12)
    assert energy == pytest.approx(-math.pi / 16 - 0.05 * math.pi, rel=1e-12)


def test_conditions_on_a_part_and_on_some_components():
    """Without loads a square that is held at its left side only rises by c there; of two
    components one is held."""
    box = ritz.Box([0, 0], [1, 1])
    left, rule = lambda x: x[0] < 1e-6, ritz.Gauss(3, 1).rule(box)
    for boundary in (
        ritz.Penalty(2.0, 100.0, on=left),
        ritz.Nitsche(2.0, 100.0, on=left),
        ritz.AugmentedLagrangian(2.0, 100.0, on=left),
        ritz.Exact(2.0, lambda x: x[0]),
    ):
        field, *_ = minimiser(boundary, 3, ritz.poisson(), box)(rule)
        assert float(field(jnp.array([0.9, 0.2]))) == pytest.approx(2, abs=1e-6)

    class Pair(eqx.Module):
        a: Quadratic = Quadratic()
        b: Quadratic = Quadratic()

        def __call__(self, x):
            return jnp.stack([self.a(x), self.b(x)])

    pull = ritz.Energy(lambda x, u, g: 0.5 * jnp.sum(g**2) + 0.5 * (u[1] - 3.0) ** 2)
    for boundary in (
        ritz.Penalty(1.0, 10.0, components=(0,)),
        ritz.Nitsche(1.0, 20.0, components=(0,)),
        ritz.AugmentedLagrangian(1.0, 10.0, components=(0,)),
        ritz.Exact(1.0, lambda x: x[0] * x[1], components=(0,)),
    ):
        field, *_, miss = minimiser(boundary, 2, pull, box, Pair())(rule)
        value = field(jnp.array([0.3, 0.6]))
        np.testing.assert_allclose(value, [1.0, 3.0], atol=1e-6)
        assert math.isnan(miss) or miss < 1e-6


def test_multipliers_are_kept_in_checkpoints(tmp_path):
    def run(steps, **more):
        return ritz.solve(
            ENERGY, DISK, ritz.AugmentedLagrangian(saddle, 5.0, every=2), Quadratic(),
            quadrature=ritz.Gauss(2, 1), optimizer=ritz.Adam(0.05), steps=steps,
            report_every=4, **more,
        )  # fmt: skip

    file = tmp_path / "run.eqx"
    whole = run(8)
    run(4, checkpoint=file)
    rest = run(8, checkpoint=file, resume=True)
    np.testing.assert_array_equal(whole.theta, rest.theta)
    x = jnp.array([0.6, 0.8])
    assert whole.multiplier is not None and rest.multiplier is not None
    assert float(whole.multiplier(x, x)) == float(rest.multiplier(x, x)) != 0.0


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: ritz.LagrangeMultiplier(rate=0.0), "must be positive"),
        (lambda: ritz.AugmentedLagrangian(weight=-1.0), "must be positive"),
        (lambda: ritz.AugmentedLagrangian(space=-1), "degree >= 0"),
        (lambda: ritz.AugmentedLagrangian(every=0), "positive whole"),
        (lambda: ritz.AugmentedLagrangian().data(
            ritz.Gauss(1, 1).rule(DISK).boundary, 0, ()), "ritz.solve"),
    ],
)  # fmt: skip
def test_bad_treatments_are_refused(call, words):
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        call()
    assert "Got" in str(caught.value)
