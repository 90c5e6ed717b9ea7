"""Fits: closed-form minimisers, the discrepancy principle, bounds, and refusals."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

import pyimplicit as pi
from pyimplicit import fem, inverse
from pyimplicit.inverse.krylov import (
    bidiagonal_start,
    bidiagonalise,
    enlarge,
    steihaug_cg,
)
from pyimplicit.inverse.linesearch import armijo, wolfe


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


# --- parts -----------------------------------------------------------------------------


def test_bidiagonalisation_keeps_its_promises():
    A, R = jnp.asarray(Linear.A), jnp.asarray(Linear.R)
    solve = lambda w: jnp.linalg.solve(R, w)
    d = jnp.ones(12)
    basis = bidiagonal_start(d, A.T @ d, solve(A.T @ d), 8)
    for _ in range(3):
        if int(basis.k) + 4 >= len(basis.alpha):
            basis = enlarge(basis)
        basis = bidiagonalise(lambda v: A @ v, lambda u: A.T @ u, solve, basis, 4)
    k = int(basis.k)
    U, V = basis.U[:, : k + 1], basis.V[:, :k]
    B = np.zeros((k + 1, k))
    B[np.arange(k), np.arange(k)] = basis.alpha[:k]
    B[np.arange(k) + 1, np.arange(k)] = basis.gamma[1 : k + 1]
    np.testing.assert_allclose(A @ V, U @ B, atol=1e-10)
    np.testing.assert_allclose(V.T @ R @ V, np.eye(k), atol=1e-8)
    assert k == 12 and float(basis.gamma[12]) < 1e-10  # 12 data: the space is whole


def test_conjugate_gradients_solve_and_stop_at_negative_curvature():
    A, b = jnp.asarray(Linear.R), jnp.arange(20.0)
    s, k, stopped = steihaug_cg(lambda v: A @ v, b, lambda r: r / A.diagonal(), 1e-12, 99)
    np.testing.assert_allclose(A @ s, b, atol=1e-8)
    assert not stopped and 0 < k <= 60
    A = jnp.diag(jnp.array([1.0, 2.0, -1.0]))
    b = jnp.array([1.0, 1.0, 0.1])
    s, _, stopped = steihaug_cg(lambda v: A @ v, b, lambda r: r, 1e-12, 99)
    assert stopped and b @ s > 0  # a direction of descent
    zero = steihaug_cg(lambda v: A @ v, 0 * b, lambda r: r, 1e-3, 99)
    assert zero[1] == 0 and not zero[0].any()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_line_searches_never_accept_an_increase(scale):
    f = lambda t: (scale * t - 1) ** 2 + 0.1 * np.sin(9 * scale * t)
    slope_of = lambda t: 2 * scale * (scale * t - 1) + 0.9 * scale * np.cos(9 * scale * t)
    beyond = lambda t: t * scale > 4  # not finite there
    value = lambda t: (math.inf if beyond(t) else f(t), t)
    t, kept = armijo(value, f(0), slope_of(0), 1e-16) or (0, 0)
    assert f(t) <= f(0) + 1e-4 * t * slope_of(0) and t == kept > 0
    value = lambda t: (math.inf if beyond(t) else f(t), slope_of(t), t)
    t, kept = wolfe(value, f(0), slope_of(0), 1e-16) or (0, 0)
    assert f(t) <= f(0) + 1e-4 * t * slope_of(0) and t == kept > 0
    assert slope_of(t) >= 0.9 * slope_of(0)
    square = lambda t: (0.5 * (scale * t - 3) ** 2, scale * (scale * t - 3), t)
    _, t = wolfe(square, 4.5, -3 * scale, 1e-16, 0.1 / scale) or (0, 0)
    assert t * scale == pytest.approx(3)  # exact for a quadratic
    assert armijo(lambda t: (math.inf, t), 1.0, -1.0, 1e-16) is None


@pytest.mark.parametrize("precision", [3.0, np.arange(1.0, 6.0), np.eye(5) + 1])
def test_gaussian_prior(precision):
    prior = inverse.GaussianPrior(precision, {"a": jnp.ones(2), "b": jnp.zeros(3)})
    m = {"a": jnp.array([2.0, 3.0]), "b": jnp.array([0.5, -1.0, 4.0])}
    R = precision if np.ndim(precision) == 2 else np.diag(np.broadcast_to(precision, 5))
    d = np.array([1, 2, 0.5, -1, 4])
    flat = lambda tree: np.concatenate([tree["a"], tree["b"]])
    assert prior.value(m) == pytest.approx(0.5 * d @ R @ d)
    np.testing.assert_allclose(flat(prior.gradient(m)), R @ d, rtol=1e-12)
    np.testing.assert_allclose(flat(prior.solve(prior.apply(m))), flat(m), rtol=1e-12)


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
    for n in (3, 8):
        V = fem.FunctionSpace(fem.Mesh.rectangle(n, n, (2.0, 1.0)), "P1")
        x, y = V.mesh.points.T
        prior = inverse.H1Prior(V, gamma=3.0, delta=5.0, reference=1.0)
        # m - 1 = 2x + y: gradient² = 5 on area 2; ∫ (2x + y)² = 32/3 + 4 + 2/3
        assert prior.value(1 + 2 * x + y) == pytest.approx(
            0.5 * (3 * 5 * 2 + 5 * (32 / 3 + 4 + 2 / 3)), rel=1e-12
        )
        v = jnp.sin(3 * x)
        np.testing.assert_allclose(prior.solve(prior.apply(v)), v, atol=1e-12)
        np.testing.assert_allclose(prior.gradient(v), jax.grad(prior.value)(v), atol=1e-12)


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
    steps = []
    for n in (5, 12):
        V, residual = conductivity(n, error=0.01)
        result = inverse.fit(
            residual,
            jnp.zeros(V.shape),
            method="lbfgs",
            prior=inverse.H1Prior(V),
            rtol=1e-3,
        )
        steps.append(result.steps)
    assert steps[1] <= 1.3 * steps[0] + 2


# --- failure ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_trial_that_is_not_finite_shortens_the_step(method):
    # A full Gauss-Newton step from 5 leads to -13, where the logarithm is NaN.
    result = inverse.fit(
        lambda m: jnp.log(m) + 2.0, jnp.array([5.0]), method=method, rtol=1e-10
    )
    np.testing.assert_allclose(result.m, np.exp(-2), rtol=1e-5)


def test_a_trial_whose_solve_fails_shortens_the_step(engine):
    pattern = pi.SparsePattern([0, 0, 1, 1], [0, 1, 0, 1], (2, 2), "spd")
    matrix = lambda k: jnp.array([k, 0.0, 0.0, 1.0])  # not positive definite for k <= 0
    residual = lambda k: pi.sparse_solve(pattern, matrix(k[0]), jnp.ones(2))[:1] - 10.0
    result = inverse.fit(residual, jnp.array([1.0]))
    np.testing.assert_allclose(result.m, 0.1, rtol=1e-6)
    assert max(row.evaluations for row in result.history) > 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [None, 1e-3])
def test_a_wrong_derivative_is_an_error_with_the_result(method, target):
    @jax.custom_jvp
    def wrong(m):
        return m - 3.0

    wrong.defjvp(lambda m, t: (wrong(*m), -t[0]))
    prior = inverse.GaussianPrior(1e-6)
    with pytest.raises(inverse.FitError, match="derivative") as err:
        inverse.fit(wrong, jnp.ones(2), method=method, prior=prior, target=target)
    np.testing.assert_allclose(err.value.result.m, 1, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [None, 0.1])
def test_a_gradient_that_is_not_finite_is_reported(method, target):
    result = inverse.fit(
        lambda m: jnp.sqrt(m) + 1.0,
        jnp.zeros(2),
        method=method,
        prior=inverse.GaussianPrior(),
        target=target,
        throw=False,
    )
    assert not result.converged and "not finite" in result.message


def test_running_out_of_steps():
    options = {"method": "lbfgs", "prior": Linear.prior(), "max_steps": 2}
    with pytest.raises(inverse.FitError, match="`max_steps` = 2") as err:
        inverse.fit(Linear.residual, np.zeros(20), **options)
    result = inverse.fit(Linear.residual, np.zeros(20), throw=False, **options)
    assert not result.converged and result.steps == 2
    np.testing.assert_array_equal(result.m, err.value.result.m)


def broken(m):
    return m / 0.0 * 0.0


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"misfit": broken}, ValueError, "finite at `m0`"),
        ({"m0": np.array([1.0, np.nan, 0.0])}, ValueError, "nan as flat entry 1"),
        ({"m0": np.array([1, 2, 3])}, TypeError, "floating-point"),
        ({"m0": {}}, TypeError, "no array"),
        ({"misfit": jnp.sum}, ValueError, "vector of residuals"),
        (
            {"misfit": jnp.sum, "method": "lbfgs", "target": 1.0},
            ValueError,
            "has no chi2",
        ),
        ({"misfit": lambda m: m > 0}, ValueError, "real scalar"),
        ({"misfit": lambda m: m * 1j}, ValueError, "stack the parts"),
        ({"method": "sgd"}, ValueError, "'gauss-newton', 'lbfgs', 'newton-cg'"),
        ({"prior": 3.0}, TypeError, "value, gradient, apply, solve"),
        ({"inner_product": np.eye(3)}, TypeError, "solve"),
        ({"bounds": (0.0, 0.5)}, ValueError, "as entry 0 of the flat model"),
        ({"bounds": 3.0}, ValueError, "pair"),
        ({"bounds": (None, np.ones(2))}, ValueError, "upper bound"),
        ({"target": -1.0}, ValueError, "target=...)` must be a positive"),
        ({"beta": 0.0}, ValueError, "beta=...)` must be a positive"),
        ({"rtol": math.nan}, ValueError, "rtol=...)` must be a positive"),
        ({"max_steps": 0}, ValueError, "at least 1"),
    ],
)
def test_refusals(change, error, message):
    arguments = {"misfit": lambda m: m - 1.0, "m0": np.full(3, 2.0)} | change
    with pytest.raises(error) as caught:
        inverse.fit(arguments.pop("misfit"), arguments.pop("m0"), **arguments)
    assert message in str(caught.value)
    assert "Got " in str(caught.value) and str(caught.value).count("\n") == 2


def test_other_refusals():
    with pytest.raises(TypeError, match="cannot be traced"):
        jax.jit(lambda m: inverse.fit(lambda x: x, m).m)(jnp.ones(2))
    for precision in (-1.0, np.array([1.0, 0.0]), np.array([[1.0, 2.0], [2.0, 1.0]])):
        with pytest.raises(ValueError, match="positive"):
            inverse.GaussianPrior(precision)
    mesh = fem.Mesh.rectangle(2, 2)
    with pytest.raises(ValueError, match="delta > 0"):
        inverse.H1Prior(fem.FunctionSpace(mesh), 1.0, 0.0)
    with pytest.raises(ValueError, match="scalar functions"):
        inverse.H1Prior(fem.FunctionSpace(mesh, components=2))


# --- record ----------------------------------------------------------------------------


def test_history_callback_and_table():
    seen = []
    result = inverse.fit(
        Linear.residual,
        np.zeros(20),
        prior=Linear.prior(),
        callback=lambda step, m: seen.append((step, m.shape)),
    )
    assert [row for row, _ in seen] == list(result.history)
    assert {shape for _, shape in seen} == {(20,)}
    totals = [row.misfit + row.prior for row in result.history]
    assert all(b <= a for a, b in itertools.pairwise(totals))
    assert [row.step for row in result.history] == list(range(result.steps + 1))
    assert result.message in " ".join(str(result).split())


def test_the_callback_can_stop():
    result = inverse.fit(
        Linear.residual,
        np.zeros(20),
        prior=Linear.prior(),
        callback=lambda step, m: step.step == 1,
        throw=False,
    )
    assert result.steps == 1 and result.message == "stopped by the callback"


def test_progress_is_a_line_for_each_step_without_a_terminal(capsys):
    for progress, lines in ((None, 0), (False, 0), (True, 2)):
        inverse.fit(lambda m: m - 1.0, jnp.zeros(2), progress=progress)
        out, err = capsys.readouterr()
        assert out == "" and (err.count("\n") >= lines if lines else err == "")
        assert not lines or "step 1: chi2" in err
