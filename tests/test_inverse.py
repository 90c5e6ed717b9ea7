"""Fits: closed-form minimisers, the discrepancy principle, bounds, and meshes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

import pyimplicit as pi
from pyimplicit import fem, inverse


METHODS = ("gauss-newton", "newton-cg", "lbfgs")


class Linear:
    """12 data, 20 unknowns, a full covariance: everything is known in closed form."""

    rng = np.random.default_rng(0)
    error = 0.05
    A = rng.normal(size=(12, 20)) * np.exp(-np.arange(20) / 4)
    truth = rng.normal(size=20)
    data = A @ truth + error * rng.normal(size=12)
    root = rng.normal(size=(20, 20))
    R = root @ root.T + 2 * np.eye(20)
    mean = np.full(20, 0.3)

    @classmethod
    def residual(cls, m):
        return (cls.A @ m - cls.data) / cls.error

    @classmethod
    def minimiser(cls, beta=1.0):
        matrix = cls.A.T @ cls.A / cls.error**2 + beta * cls.R
        right = cls.A.T @ cls.data / cls.error**2 + beta * cls.R @ cls.mean
        return np.linalg.solve(matrix, right)

    @classmethod
    def prior(cls):
        return inverse.GaussianPrior(cls.R, cls.mean)


# --- minimisers ------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("beta", [1.0, 30.0])
def test_map_estimate_of_a_linear_gaussian_problem(method, beta):
    result = inverse.fit(
        Linear.residual,
        np.zeros(20),
        method=method,
        prior=Linear.prior(),
        beta=beta,
        rtol=1e-9,
        max_steps=400,
    )
    np.testing.assert_allclose(result.m, Linear.minimiser(beta), atol=1e-6)
    assert result.converged and result.beta == beta
    r = Linear.residual(np.asarray(result.m))
    assert result.chi2 == pytest.approx(r @ r / 12)


@pytest.mark.parametrize("method", METHODS)
def test_a_nonlinear_model_of_a_pytree_within_bounds(method):
    def residual(m):
        product = jnp.atleast_1d(m["a"].sum() * m["b"].sum()) / 10
        return jnp.concatenate([m["a"] - 2, 3 * m["b"] - 1, product])

    upper = {"a": np.array([1.0, 5.0, np.inf]), "b": np.array([np.inf, 0.6])}
    m0 = {"a": jnp.full(3, 0.5), "b": jnp.full(2, 0.4)}
    result = inverse.fit(residual, m0, method=method, bounds=(0.0, upper), rtol=1e-9)

    flat = lambda x: np.asarray(residual({"a": x[:3], "b": x[3:]}))
    high = np.concatenate([upper["a"], upper["b"]])
    wanted = least_squares(flat, [0.5] * 3 + [0.4] * 2, bounds=(0, high), xtol=1e-15).x
    found = np.concatenate([result.m["a"], result.m["b"]])
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert (found > 0).all() and (found <= high).all()


@pytest.mark.parametrize("method", ["newton-cg", "lbfgs"])
def test_a_scalar_misfit_with_a_saddle(method):
    # The Hessian at the start is indefinite; minima are at (±1, 0), value 0.
    well = lambda m: (m[0] ** 2 - 1) ** 2 + m[1] ** 2
    result = inverse.fit(well, jnp.array([0.05, 1.0]), method=method, rtol=1e-8)
    np.testing.assert_allclose(np.abs(result.m), [1, 0], atol=1e-5)
    assert math.isnan(result.chi2)


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_stays_single(method):
    result = inverse.fit(
        lambda m: jnp.asarray(Linear.A, m.dtype) @ m - 1.0,
        jnp.zeros(20, jnp.float32),
        method=method,
        prior=inverse.GaussianPrior(1.0),
        target=None if method != "gauss-newton" else 0.5,
        max_steps=200,
        rtol=1e-4,
    )
    assert result.m.dtype == jnp.float32 and result.converged


# --- the discrepancy principle ---------------------------------------------------------


def test_the_target_is_met_by_the_minimiser_for_its_own_beta():
    result = inverse.fit(
        Linear.residual,
        np.zeros(20),
        method=inverse.GaussNewton(forcing=1e-10),
        prior=Linear.prior(),
        target=1.0,
    )
    assert abs(result.chi2 - 1) < 0.01
    np.testing.assert_allclose(result.m, Linear.minimiser(result.beta), atol=1e-7)


def test_a_nonlinear_fit_meets_the_target():
    residual = lambda m: (Linear.A @ (jnp.exp(m) - np.exp(Linear.truth))) / 0.05 - 0.9
    prior = Linear.prior()
    result = inverse.fit(residual, np.zeros(20), prior=prior, target=1.0)
    assert abs(result.chi2 - 1) < 0.01 and "target" in result.message
    # Near to stationary for its own beta, not just any model with that chi².
    total = lambda m: 0.5 * jnp.sum(residual(m) ** 2) + result.beta * prior.value(m)
    norm = lambda g: float(jnp.sqrt(g @ prior.solve(g)))
    start = norm(jax.grad(total)(jnp.zeros(20)))
    assert norm(jax.grad(total)(result.m)) < 0.01 * start


def test_a_start_that_fits_is_returned():
    result = inverse.fit(
        lambda m: 0.1 * m, jnp.ones(4), prior=inverse.GaussianPrior(), target=1.0
    )
    assert result.steps == 0 and result.converged
    np.testing.assert_array_equal(result.m, 1)


def test_a_target_out_of_reach_is_reported():
    contradiction = lambda m: jnp.concatenate([m, m - 1]) * 100
    result = inverse.fit(
        contradiction,
        jnp.zeros(3),
        prior=inverse.GaussianPrior(),
        target=1.0,
        throw=False,
    )
    assert not result.converged and "errors are set too small" in result.message
    least = 0.25 * 100**2  # at m = 1/2; the fit stops a tenth above
    assert result.chi2 <= 1.2 * least


def test_without_a_prior_the_fit_stops_early():
    for method in METHODS:
        result = inverse.fit(Linear.residual, np.zeros(20), method=method, target=5.0)
        assert result.converged and result.chi2 <= 5


# --- on meshes -------------------------------------------------------------------------


def conductivity(n: int, error: float = 1e-3):
    """The log-conductivity of the unit square from values all over it."""
    mesh = fem.Mesh.rectangle(n, n)
    V = fem.FunctionSpace(mesh, "P1")
    problem = fem.models.poisson(V, {"left": 0.0, "right": 1.0}, source="f")
    solve = lambda m: problem.solve({"kappa": jnp.exp(m), "f": 10.0})
    truth = np.sin(3 * mesh.points[:, 0]) * mesh.points[:, 1]
    points = (np.indices((6, 6)).reshape(2, -1).T + 0.5) / 6
    at = fem.point_evaluation(V, points)
    data = at(solve(truth))
    return V, lambda m: (at(solve(m)) - data) / error


def test_h1_prior_is_the_integral_and_inverts(engine):
    def parts():
        for n in (3, 8):
            V = fem.FunctionSpace(fem.Mesh.rectangle(n, n, (2.0, 1.0)), "P1")
            x, y = V.mesh.points.T
            prior = inverse.H1Prior(V, gamma=3.0, delta=5.0, reference=1.0)
            v = jnp.sin(3 * x)
            back = prior.solve(prior.apply(v))
            slopes = prior.gradient(v), jax.grad(prior.value)(v)
            yield prior.value(1 + 2 * x + y), (back, v), slopes

    # m - 1 = 2x + y: gradient² = 5 on area 2; ∫ (2x + y)² = 32/3 + 4 + 2/3
    wanted = 0.5 * (3 * 5 * 2 + 5 * (32 / 3 + 4 + 2 / 3))
    for value, *pairs in jax.jit(lambda: list(parts()))():
        assert value == pytest.approx(wanted, rel=1e-12)
        for found, expected in pairs:
            np.testing.assert_allclose(found, expected, atol=1e-12)


def test_one_factorisation_for_each_iterate(engine):
    V, residual = conductivity(8)
    pi.engine.clear()
    result = inverse.fit(residual, jnp.zeros(V.shape), prior=inverse.H1Prior(V), target=1.0)
    assert result.converged and result.steps >= 3
    # One for each evaluation of the misfit, one for the prior; tangents, adjoints and
    # all inner iterations share them.
    evaluations = sum(row.evaluations for row in result.history)
    assert sum(row.factorisations for row in result.history) == evaluations + 1


def test_methods_agree_on_a_mesh():
    V, residual = conductivity(5, error=0.02)
    prior = inverse.H1Prior(V, 1.0, 1.0)
    found = [
        inverse.fit(
            residual,
            jnp.zeros(V.shape),
            method=method,
            prior=prior,
            rtol=1e-9,
            max_steps=900,
        ).m
        for method in METHODS
    ]
    for m in found[1:]:
        np.testing.assert_allclose(m, found[0], atol=1e-4)


def test_steps_do_not_grow_with_the_mesh():
    """With the inner product of H1; in plain coordinates they do."""

    def steps(n, **options):
        V, residual = conductivity(n, error=0.01)
        start, prior = jnp.zeros(V.shape), inverse.H1Prior(V)
        result = inverse.fit(
            residual, start, method="lbfgs", prior=prior, rtol=1e-3, **options
        )
        return result.steps

    fine = steps(12)
    assert fine <= 1.3 * steps(5) + 2
    plain = inverse.GaussianPrior(1.0)
    assert steps(12, inner_product=plain, max_steps=3 * fine, throw=False) > 1.5 * fine


def test_forcing_terms_of_eisenstat_and_walker():
    """The gradient of a quadratic after an inner solve is what that left: at most
    η = min(0.5, √(|g|/|g₀|)) of it; and the first is not solved to the end."""
    run = lambda method: inverse.fit(
        lambda m: 0.5 * jnp.sum(Linear.residual(m) ** 2), np.zeros(20), method=method,
        prior=Linear.prior(), rtol=1e-9,
    )  # fmt: skip
    result = run("newton-cg")
    # A line has the gradient where its step began.
    g = np.array([row.gradient for row in result.history[1:]])
    eta = np.minimum(0.5, np.sqrt(g / g[0]))
    assert len(g) > 3 and (g[1:] <= eta[:-1] * g[:-1] * (1 + 1e-6)).all()
    exact = run(inverse.NewtonCG(forcing=1e-12))
    assert result.history[1].cg < exact.history[1].cg
