"""Energies in closed form, residuals, features and enrichment, rules that adapt."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import ritz
from pyimplicit.ritz.functional import Discrete, Functional

from .ritz_problems import Given


KEY = jax.random.key(0)
DISK, SQUARE = ritz.Ball(2), ritz.Box([0, 0], [1, 1])
A = np.array([[0.1, 0.2], [0.0, -0.05]])
SUM = A + A.T
SHEAR = np.array([[0.1, 0.4, 0.0], [0.0, 0.2, -0.3], [0.5, 0.0, -0.1]])
LOG_J = math.log(np.linalg.det(np.eye(3) + SHEAR))
# The obstacle 1/2 - x² on (-1, 1): in contact for |x| < a, then a straight line.
CONTACT = 1 - 1 / math.sqrt(2)


def touching(x):
    r, a = jnp.abs(x[0]), CONTACT
    return jnp.where(r < a, 0.5 - r**2, 0.5 - a**2 - 2 * a * (r - a))


def energy_of(energy, domain, fn, rule=None):
    f = Functional(energy, domain, ritz.Natural(), Given(fn))
    rule = ritz.Gauss(5, 24 if domain.dim < 3 else 1).rule(domain) if rule is None else rule
    return float(jax.jit(f.pure)(f.theta, rule))


# Energy, domain, function, value, tolerance.
CLOSED = {
    "p-Laplace": (
        ritz.p_laplacian(3.0, 1.0), DISK,
        lambda x: 2 / 3 * 0.5**0.5 * (1 - (x @ x) ** 0.75),
        -2 / 3 * 2 * math.pi * 2**-1.5 / 3.5, 1e-7),
    "elasticity": (
        ritz.linear_elasticity(1.3, 0.7, np.array([0.0, -1.0]),
                               traction=np.array([2.0, 0.0])), SQUARE,
        lambda x: A @ x,
        0.5 * 1.3 * np.trace(A) ** 2 + 0.7 * np.sum(SUM**2) / 4 + A[1].sum() / 2
        - 2.0 * 4 * A[0].sum() / 2, 1e-12),
    "neo-Hooke": (
        ritz.neo_hookean(1.3, 0.7), SQUARE, lambda x: 0.2 * x,
        0.35 * (2 * 1.44 - 2 - 4 * math.log(1.2)) + 0.65 * (2 * math.log(1.2)) ** 2,
        1e-12),
    "neo-Hooke in space": (
        ritz.neo_hookean(1.3, 0.7), ritz.Ball(3), lambda x: SHEAR @ x,
        4 / 3 * math.pi * (0.35 * (np.sum((np.eye(3) + SHEAR) ** 2) - 3 - 2 * LOG_J)
                           + 0.65 * LOG_J**2), 1e-12),
    "Allen-Cahn": (
        ritz.ginzburg_landau(0.2), ritz.Box([-3], [3]),
        lambda x: jnp.tanh(x[0] / (0.2 * math.sqrt(2))), 0.2 * 2 * math.sqrt(2) / 3, 1e-6),
    "Ginzburg-Landau": (
        ritz.ginzburg_landau(0.2), SQUARE,
        lambda x: jnp.stack([jnp.cos(3 * x[0]), jnp.sin(3 * x[0])]), 0.5 * 0.04 * 9, 1e-12),
    "obstacle": (
        ritz.obstacle(lambda x: 0.5 - x[0] ** 2), ritz.Box([-1], [1]), touching,
        4 * CONTACT**3 / 3 + 4 * CONTACT**2 * (1 - CONTACT), 1e-3),
    "Rayleigh": (
        ritz.rayleigh(), SQUARE, lambda x: jnp.prod(jnp.sin(math.pi * x)),
        2 * math.pi**2, 1e-12),
    "oscillator": (
        ritz.rayleigh(lambda x: x @ x), ritz.Box([-6, -6], [6, 6]),
        lambda x: jnp.exp(-x @ x / 2), 2.0, 1e-8),
}  # fmt: skip


@pytest.mark.parametrize("name", CLOSED)
def test_energies_in_closed_form(name):
    energy, domain, u, value, tol = CLOSED[name]
    assert energy_of(energy, domain, u) == pytest.approx(value, rel=tol)


def test_below_the_obstacle_costs():
    energy, domain, *_ = CLOSED["obstacle"]
    lower = lambda x: touching(x) - 0.1
    assert energy_of(energy, domain, lower) > energy_of(energy, domain, touching) + 1


def kappa(x):
    return 1 + x[0] * x[1]


def wave(x):
    return jnp.sin(2 * x[0]) * x[1] ** 2


def wave_flux(x):
    return kappa(x) * jax.grad(wave)(x)


def wave_source(x):
    return 0.7 * wave(x) - jnp.trace(jax.jacfwd(wave_flux)(x))


RESIDUALS = {
    "PINN": (ritz.pinn(wave_source, kappa=kappa, reaction=0.7), wave),
    "FOSLS": (
        ritz.fosls(wave_source, kappa=kappa, reaction=0.7),
        lambda x: jnp.concatenate([wave(x)[None], wave_flux(x)]),
    ),
}


@pytest.mark.parametrize("name", RESIDUALS)
def test_residuals_are_zero_at_the_solution_only(name):
    """At s times the solution the residual is (1 - s) f: the value (1 - s)²/2 ∫ f², its
    slope in s -(1 - s) ∫ f², its metric ∫ f²."""
    energy, u = RESIDUALS[name]
    f = Functional(energy, SQUARE, ritz.Natural(), Given(u))
    rule = ritz.Gauss(5, 1).rule(SQUARE)

    @jax.jit
    def look(theta):
        problem = Discrete(f, rule, 0)
        size = rule.interior.w @ jax.vmap(wave_source)(rule.interior.x) ** 2
        return *jax.value_and_grad(problem.value)(theta), problem.gram(theta), size

    for s in (1.0, 0.0, 1.5):
        value, slope, gram, size = look(jnp.array([s]))
        assert float(value) == pytest.approx(0.5 * (1 - s) ** 2 * float(size), abs=1e-12)
        assert float(slope[0]) == pytest.approx(-(1 - s) * float(size), abs=1e-11)
        assert float(gram[0, 0]) == pytest.approx(float(size), rel=1e-11)


# --- models ----------------------------------------------------------------------------


def test_periodic_and_fourier_features():
    net = ritz.MLP(7, 5, 1, activation=jnp.sin, key=KEY)
    periodic = ritz.Periodic((2.0, None, 0.5), harmonics=2)
    model = ritz.Features((lambda x: x[1], ritz.Periodic((2.0, 0.5))), net)
    assert periodic.size == 9 and periodic(jnp.ones(3)).shape == (9,)
    fourier = ritz.Fourier(2, 3, 1.0, key=KEY)
    trained = ritz.Fourier(2, 3, 1.0, trained=True, key=KEY)
    assert ritz.count(fourier) == 0 and ritz.count(trained) == 6

    @jax.jit
    def look(x):
        wide = ritz.Features((None, ritz.Periodic((2.0, 0.5))), ritz.MLP(6, 5, 1, key=KEY))
        once = jax.value_and_grad(lambda x: ritz.Features(
            (ritz.Periodic((2.0, 0.5)),), ritz.MLP(4, 5, 1, key=KEY))(x))  # fmt: skip
        return once(x), once(x + jnp.array([2.0, -1.5])), wide(x), fourier(x)

    here, there, _, waves = look(jnp.array([0.3, 0.7]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), here, there)
    angles = 2 * np.pi * np.array(fourier.fixed) @ np.array([0.3, 0.7])
    np.testing.assert_allclose(waves, [*np.cos(angles), *np.sin(angles)], rtol=1e-12)
    with pytest.raises(TypeError):
        model(jnp.ones(2))  # 5 features for 7 inputs


def test_any_equinox_module_is_a_model():
    net = eqx.nn.MLP(2, "scalar", 4, 1, jnp.tanh, key=KEY)
    f = Functional(ritz.poisson(1.0), SQUARE, ritz.Exact(), net)
    assert f.theta.size == ritz.count(net) == 17
    g = jax.jit(jax.grad(Discrete(f, ritz.Gauss(2, 1).rule(SQUARE), 0).value))(f.theta)
    assert bool(jnp.isfinite(g).all()) and float(jnp.abs(g).max()) > 0


def test_the_amplitude_of_a_singularity_is_found():
    """On the slit, for -Δu = f with u = a χ(r) r^(1/2) sin(θ/2): the energy's minimum over
    polynomials times the distance and the singular function gives a, and no polynomial;
    on the boundary u is zero."""
    slit = ritz.Slit()
    s = ritz.Singular(slit.corner)
    laplacian = lambda fn, x: jnp.trace(jax.jacfwd(jax.jacfwd(fn))(x))
    energy = ritz.poisson(lambda x: -1.7 * laplacian(s, x))

    class Linear(eqx.Module):
        c: jax.Array = eqx.field(default_factory=lambda: jnp.zeros(3))

        def __call__(self, x):
            return self.c @ jnp.stack([1 + 0 * x[0], x[0], x[1]])

    f = Functional(energy, slit, ritz.Exact(), ritz.Enriched(Linear(), (s,)))
    rule = ritz.Gauss(6, 8).rule(slit)

    @jax.jit
    def look(theta):
        problem = Discrete(f, rule, 0)
        best = theta - jnp.linalg.solve(problem.gram(theta), jax.grad(problem.value)(theta))
        return best, jax.vmap(f.field(best))(rule.boundary.x)

    best, on_boundary = look(f.theta)
    model = f.model(best)
    assert float(model.amplitudes[0]) == pytest.approx(1.7, rel=1e-3)  # of the rule
    np.testing.assert_allclose(model.net.c, 0, atol=1e-3)
    np.testing.assert_allclose(on_boundary, 0, atol=1e-9)


@pytest.mark.parametrize("order, natural", [(1, True), (2, False), (3, False)])
def test_singular_functions_are_harmonic_and_cut_off(order, natural):
    corner = ritz.LShape().corner
    s = ritz.Singular(corner, 0.3, 0.8, order=order, natural=natural)
    look = jax.jit(lambda x: (s(x), jnp.trace(jax.jacfwd(jax.jacfwd(s))(x))))
    z = complex(-0.1, 0.2)
    value, laplacian = look(jnp.array([z.real, z.imag]))
    wanted = z ** (2 / 3 * order)
    assert float(value) == pytest.approx(wanted.real if natural else wanted.imag, rel=1e-12)
    assert abs(float(laplacian)) < 1e-10
    assert float(look(jnp.array([-0.6, 0.6]))[0]) == 0


# --- rules that adapt ------------------------------------------------------------------


def peak(x):
    return jnp.exp(-50 * jnp.sum((x - 0.4) ** 2))


def test_importance_and_adaptive_rules_have_no_bias():
    """The mean over 400 draws of ∫ of a peak; both spread a third of what uniform nodes
    do; and Adaptive's follow the function that is trained."""
    f = Functional(ritz.Energy(lambda x, u, g: u), SQUARE, ritz.Natural(), Given(peak))
    rules = [
        lambda key: ritz.MonteCarlo(32).rule(SQUARE, key),
        lambda key: ritz.Importance(lambda x: 0.02 + peak(x), 32, 1, 64).rule(SQUARE, key),
        lambda key: ritz.Adaptive(None, 32, 1, 64).at(f, f.theta, key),
        lambda key: ritz.Adaptive(lambda x, u, g: u, 32, 1, 64).at(f, f.theta, key),
    ]

    @jax.jit
    def draws(keys):
        def values(key):
            inside = [rule(key).interior for rule in rules]
            return jnp.stack([n.w @ jax.vmap(peak)(n.x) for n in inside])

        return jax.vmap(values)(keys)

    values = np.asarray(draws(jax.random.split(KEY, 400)))
    side = math.sqrt(math.pi / 50) / 2
    half = lambda a: math.erf(math.sqrt(50) * a)
    exact = (side * (half(0.4) + half(0.6))) ** 2
    spread = values.std(axis=0)
    assert (np.abs(values.mean(axis=0) - exact) < 4 * spread / math.sqrt(400)).all()
    assert (spread[1:] < spread[0] / 3).all()
    np.testing.assert_allclose(values[:, 2], values[:, 3])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: ritz.Periodic((0.0,)), "positive periods"),
        (lambda: ritz.Singular(ritz.Slit().corner, 0.5, 0.4), "inner < outer"),
        (lambda: ritz.Enriched(peak, (peak,), np.ones(2)), "one number for each"),
        (lambda: ritz.Importance(peak, 0), "positive whole"),
        (lambda: ritz.Adaptive(candidates=0), "positive whole"),
        (lambda: ritz.Adaptive(uniform=0.0), "lie in"),
    ],
)
def test_bad_models_and_rules_are_refused(call, words):
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        call()
    assert "Got" in str(caught.value)
