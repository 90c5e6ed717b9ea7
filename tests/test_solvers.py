"""Every solver on every kind of problem it is for: values, statuses, batches, precision."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import optimistix as optx
import pytest

import pyimplicit as pi

from .solver_problems import (
    DATA,
    DESIGN,
    Family,
    fixed_points,
    hopeless,
    minima,
    pack,
    residuals,
    unpack,
)


MAPS = Family(fixed_points + hopeless, pack)
MINIMA, RESIDUALS = Family(minima), Family(residuals)
OURS = {
    "picard": pi.Picard(),
    "anderson": pi.Anderson(),
    "broyden_good": pi.Broyden(),
    "broyden_bad": pi.Broyden(good=False),
    "newton": pi.Newton(),
    "chord": pi.Chord(),
    "newton_krylov": pi.NewtonKrylov(),
}
FIXED_POINT_SOLVERS = OURS | {
    "broyden_jacobian": pi.Broyden(jacobian=pi.Dense()),
    "levenberg_marquardt": pi.LevenbergMarquardt(),
    "dogleg": pi.Dogleg(),
}
MINIMISERS = {
    "lbfgs": pi.LBFGS(),
    "bfgs": pi.BFGS(),
    "dfp": pi.DFP(),
    "nonlinear_cg": pi.NonlinearCG(),
    "nelder_mead": pi.NelderMead(),
    "newton": pi.Newton(),
    "gradient_descent": pi.GradientDescent(),
    "accelerated": pi.GradientDescent(acceleration=True),
    "optax": pi.Optax(optax.adam(0.1)),
}
CRAWLERS = ("gradient_descent", "accelerated", "optax")
LEAST_SQUARES = {
    "gauss_newton": pi.GaussNewton(),
    "gauss_newton_svd": pi.GaussNewton(linear_solver=lx.SVD()),
    "levenberg_marquardt": pi.LevenbergMarquardt(),
    "levenberg_marquardt_cholesky": pi.LevenbergMarquardt(linear_solver=lx.Cholesky()),
    "dogleg": pi.Dogleg(),
}
named = functools.partial(pytest.mark.parametrize, "name")


@functools.cache
def fixed_point_solver(name, batched=False):
    solve = lambda z0, params: pi.fixed_point(
        MAPS.fn, z0, params, solver=FIXED_POINT_SOLVERS[name], throw=False
    )
    return jax.jit(jax.vmap(solve) if batched else solve)


@functools.cache
def minimiser(name):
    return jax.jit(
        lambda z0, params: pi.minimize(
            MINIMA.fn, z0, params, solver=MINIMISERS[name], max_steps=3000
        )
    )


@functools.cache
def least_squares_solver(name):
    return jax.jit(
        lambda z0, params: pi.least_squares(
            RESIDUALS.fn, z0, params, solver=LEAST_SQUARES[name]
        )
    )


def number(family, problem):
    return family.problems.index(problem)


def close(solution, problem, rtol):
    exact = problem.solution()
    np.testing.assert_allclose(unpack(solution.value), exact, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("problem", fixed_points, ids=repr)
@named(FIXED_POINT_SOLVERS)
def test_fixed_points_and_roots(name, problem):
    solution = fixed_point_solver(name)(*MAPS.args(number(MAPS, problem)))
    if name.startswith("picard") and "contracts" not in problem.traits:
        assert solution.status in (pi.Status.max_steps_reached, pi.Status.nonfinite)
        return
    assert solution.status == pi.Status.converged
    close(solution, problem, 1e-8)
    assert solution.stats["residual"] < 1e-6


@named(OURS)
def test_a_batch_is_its_samples(name):
    """Also where mates diverge, or start from NaN."""
    args = MAPS.batch()
    together = fixed_point_solver(name, batched=True)(*args)
    for k, problem in enumerate(MAPS.problems):
        alone = fixed_point_solver(name)(*MAPS.args(k))
        mine = jax.tree.map(lambda a, k=k: a[k], together)
        assert mine.stats["iterations"] == alone.stats["iterations"]
        assert mine.status == alone.status
        if problem.exact is None:
            assert mine.status != pi.Status.converged
        elif mine.status == pi.Status.converged:
            for a, b in zip(mine.value.values(), alone.value.values(), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)
    assert together.status[MAPS.problems.index(hopeless[1])] == pi.Status.nonfinite
    assert len(set(np.asarray(together.stats["iterations"]).tolist())) >= 4


@pytest.mark.parametrize("problem", minima, ids=repr)
@named(MINIMISERS)
def test_minima(name, problem):
    if problem.traits and name in CRAWLERS:
        pytest.skip("first-order methods crawl along curved valleys")
    start = MINIMA.args(number(MINIMA, problem))
    if name == "newton" and problem.traits:  # pure Newton: any stationary point
        start = jax.tree.map(lambda a: a + 0.1, pack(jnp.array([1.0, 2.0]))), start[1]
    solution = minimiser(name)(*start)
    assert solution.status == pi.Status.converged
    close(solution, problem, 1e-7)


@pytest.mark.parametrize("problem", residuals, ids=repr)
@named(LEAST_SQUARES)
def test_least_squares(name, problem):
    solution = least_squares_solver(name)(*RESIDUALS.args(number(RESIDUALS, problem)))
    assert solution.status == pi.Status.converged
    close(solution, problem, 1e-7)
    assert solution.stats["residual"] < 1e-4


# Constraints and non-smooth terms: the solution is chosen and the data are made to fit it
# (the conditions of Karush, Kuhn and Tucker), so it is known to the last digit.
N = 6
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, N)) * np.array([1.0, 3.0, 0.8, 1.0, 2.0, 1.0])
SPARSE = np.array([3.0, 0.0, -20.0, 0.0, 0.0, 0.7])
PENALTY = 2.0
SLOPES = np.where(SPARSE == 0, [0.0, 0.5, 0.0, -0.9, 0.1, 0.0], np.sign(SPARSE))
CORNER = np.array([0.2, 0.0, 0.5, 0.0, 0.3, 0.0])
INSIDE = np.array([0.2, 0.1, 0.35, 0.05, 0.25, 0.05])
MULTIPLIERS = np.where(CORNER == 0, [0.0, 3.0, 0.0, 0.7, 0.0, 40.0], 0.0)


def targets(z, gradient):
    """y with Xᵀ(Xz - y) = gradient."""
    return X @ z - np.linalg.lstsq(X.T, gradient)[0]


def squares(z, y):
    return 0.5 * jnp.sum((X @ z - y) ** 2)


def shrink(v, y, scaling):
    del y
    return jnp.sign(v) * jnp.maximum(jnp.abs(v) - scaling * PENALTY, 0.0)


def onto_simplex(v, y):
    """Held, Wolfe, Crowder 1974: v - t, cut at zero, with the t that makes the sum 1."""
    del y
    u = -jnp.sort(-v)
    t = (jnp.cumsum(u) - 1) / jnp.arange(1, v.size + 1)
    return jnp.maximum(v - t[jnp.sum(u > t) - 1], 0.0)


COMPOSITE = pi.LinearComposite(
    lambda y: jnp.array(X), lambda Xz, y: jnp.sum((Xz - y) ** 2) / 2
)
LASSO = targets(SPARSE, -PENALTY * SLOPES)
ON_FACE, IN_SIMPLEX = targets(CORNER, 7.0 + MULTIPLIERS), targets(INSIDE, np.full(N, 7.0))
POSITIVE = targets(10 * CORNER, MULTIPLIERS)
positive = lambda v, y, scaling=1.0: jnp.maximum(v, 0)
ENTROPY = pi.MirrorDescent(
    projection_grad=pi.MirrorDescent.make_projection_grad(
        lambda m, y: jax.nn.softmax(m), jnp.log
    ),
    stepsize=0.03,
)
CONSTRAINED = {
    "lasso": (pi.ProximalGradient(prox=shrink), LASSO, SPARSE),
    "lasso_plain": (pi.ProximalGradient(prox=shrink, acceleration=False), LASSO, SPARSE),
    "lasso_stepsize": (pi.ProximalGradient(prox=shrink, stepsize=0.01), LASSO, SPARSE),
    "lasso_blocks": (pi.BlockCoordinateDescent(prox=shrink), LASSO, SPARSE),
    "lasso_composite": (
        pi.BlockCoordinateDescent(prox=shrink, objective=COMPOSITE), LASSO, SPARSE),
    "positive": (pi.ProjectedGradient(projection=positive), POSITIVE, 10 * CORNER),
    "positive_blocks": (pi.BlockCoordinateDescent(prox=positive), POSITIVE, 10 * CORNER),
    "simplex": (pi.ProjectedGradient(projection=onto_simplex), ON_FACE, CORNER),
    "simplex_plain": (
        pi.ProjectedGradient(projection=onto_simplex, acceleration=False), ON_FACE, CORNER),
    "simplex_entropy": (pi.ExponentiatedGradient(), IN_SIMPLEX, INSIDE),
    "simplex_mirror": (ENTROPY, IN_SIMPLEX, INSIDE),
}  # fmt: skip


@named(CONSTRAINED)
def test_constrained_and_non_smooth_minima(name):
    solver, y, exact = CONSTRAINED[name]
    solution = pi.minimize(squares, jnp.full(N, 1 / N), y, solver=solver, max_steps=5000)
    assert solution.status == pi.Status.converged
    np.testing.assert_allclose(solution.value, exact, atol=1e-6)
    if "entropy" not in name and "mirror" not in name:
        assert np.array_equal(solution.value == 0, exact == 0)
    if name == "lasso_composite":  # two gradients a sweep, and no more sweeps
        assert solution.stats["iterations"] < 100


def test_blocks_of_several_arrays():
    """A row of "a" and a row of "b" are a block: a group lasso with two groups set to zero
    by hand-made data (Yuan, Lin 2006)."""
    z = {
        "a": jnp.array([[1.0, -2.0], [0.0, 0.0], [3.0, 0.5]]),
        "b": jnp.array([5.0, 0.0, -1.0]),
    }
    rows = lambda z: jnp.concatenate([z["a"], z["b"][:, None]], axis=1)
    v = rows(z)
    size = jnp.linalg.norm(v, axis=1, keepdims=True)
    data = v + jnp.where(size > 0, 2 * v / jnp.where(size > 0, size, 1), 0.4)

    def prox(block, params, scaling):
        v = jnp.append(block["a"], block["b"])
        size = jnp.linalg.norm(v)
        keep = jnp.maximum(1 - 2 * scaling / jnp.where(size > 0, size, 1), 0.0)
        return jax.tree.map(lambda a: keep * a, block)

    fn = lambda z, p: 0.5 * jnp.sum((rows(z) - p) ** 2)
    start = jax.tree.map(jnp.ones_like, z)
    found = pi.minimize(fn, start, data, solver=pi.BlockCoordinateDescent(prox=prox))
    for name, value in z.items():
        np.testing.assert_allclose(found.value[name], value, atol=1e-8)


def test_bracketing():
    cube = lambda z, p: z**3 - p
    ends = {"lower": jnp.array(0.0), "upper": jnp.array(5.0)}
    found = pi.root(cube, 1.0, 30.0, solver=pi.Bisection(), options=ends)
    np.testing.assert_allclose(found.value, 30 ** (1 / 3), rtol=1e-8)
    found = pi.minimize(
        lambda z, p: z**4 / 4 - p * z, 1.0, 30.0, solver=pi.GoldenSearch(), options=ends
    )
    np.testing.assert_allclose(found.value, 30 ** (1 / 3), rtol=1e-7)
    # Not from 0, where optimistix's own starts outside of the ends.
    bowl = lambda z, p: jnp.where(jnp.abs(z - 4) <= 1, jnp.cosh(z - p), jnp.nan)
    golden = jax.jit(
        jax.value_and_grad(
            lambda p, low, high: pi.minimize(
                bowl, 0.0, p, solver=pi.GoldenSearch(rtol=1e-4, atol=1e-4),
                options={"lower": low, "upper": high},
            ).value
        )
    )  # fmt: skip
    for p, low, high in ((3.2, 3.0, 5.0), (4.7, 3.5, 4.9), (4.0, 3.0, 4.5)):
        np.testing.assert_allclose(golden(p, low, high), (p, 1.0), rtol=1e-8)
    minus = lambda z, p: (z + p) ** 2
    ends = {"lower": -9.0, "upper": -2.0}
    found = pi.minimize(minus, 0.0, 3.0, solver=pi.GoldenSearch(), options=ends)
    np.testing.assert_allclose(found.value, -3.0, rtol=1e-8)
    with pytest.raises(ValueError, match=r"pi\.GoldenSearch"):
        pi.minimize(minus, 0.0, 3.0, solver=optx.GoldenSearch(1e-6, 1e-6), options=ends)
    for entry, solver in ((pi.root, pi.Bisection()), (pi.minimize, pi.GoldenSearch())):
        for options in (None, {"lower": 0.0}):
            with pytest.raises(ValueError, match=r'(?s)"upper": …}.*two ends') as caught:
                entry(cube, 1.0, 30.0, solver=solver, options=options)
            assert str(caught.value).count("\n") == 2


# Elsewhere: in optimistix, in single precision.
@named(["picard", "anderson", "broyden_bad", "newton", "newton_krylov"])
def test_in_optimistix(name):
    solver = OURS[name]
    tight = type(solver)(**{**vars(solver), "rtol": 1e-9, "atol": 1e-9})
    find = optx.fixed_point if hasattr(solver, "damping") else optx.root_find
    fn = lambda z, p: (jnp.cos(z) + p, {"seen": z})
    if find is optx.root_find:
        fn = lambda z, p: (jnp.cos(z) + p - z, {"seen": z})
    call = lambda p: find(fn, tight, jnp.array([0.5, 1.0]), p, has_aux=True)
    found = jax.jit(call)(jnp.zeros(2))
    np.testing.assert_allclose(found.value, 0.7390851332151607, rtol=1e-8)
    np.testing.assert_allclose(found.aux["seen"], found.value, rtol=1e-3)


def test_minimisers_in_optimistix():
    tight: Any = dict(rtol=1e-9, atol=1e-9)
    for solver, exact in (
        (pi.GradientDescent(**tight), np.linalg.lstsq(X, LASSO)[0]),
        (pi.ProximalGradient(prox=shrink, **tight), SPARSE),
        (pi.BlockCoordinateDescent(prox=shrink, **tight), SPARSE),
    ):
        found = optx.minimise(squares, solver, jnp.full(N, 1 / N), LASSO, max_steps=5000)
        np.testing.assert_allclose(found.value, exact, atol=1e-6)
    for solver in (pi.GaussNewton(**tight), pi.LevenbergMarquardt(**tight)):
        line = lambda z, p: DESIGN @ z - DATA * p
        found = optx.least_squares(line, solver, jnp.zeros(2), jnp.array(2.0))
        exact = np.linalg.lstsq(DESIGN, 2 * DATA)[0]
        np.testing.assert_allclose(found.value, exact, rtol=1e-8)


@named(["anderson", "broyden_good", "newton_krylov"])
def test_single_precision(name):
    for k, problem in enumerate(fixed_points):
        found = fixed_point_solver(name)(*MAPS.args(k, jnp.float32))
        assert found.value["x"].dtype == jnp.float32
        assert found.status == pi.Status.converged
        close(found, problem, 1e-3)


def test_minimisers_in_single_precision():
    p = jnp.arange(1, 4, dtype=jnp.float32)
    fn = lambda z, p: jnp.sum(jnp.exp(z) - p * z)
    found = pi.minimize(fn, jnp.zeros(3, jnp.float32), p, solver=pi.GradientDescent())
    assert found.value.dtype == jnp.float32
    np.testing.assert_allclose(found.value, np.log([1, 2, 3]), atol=1e-5)


def test_no_change_is_within_a_tolerance_of_zero():
    """rtol alone, at an entry that is zero."""
    fn = lambda z, p: 0.5 * z * jnp.array([1.0, 0.0]) + jnp.array([1.0, 0.0])
    found = pi.fixed_point(fn, jnp.zeros(2), solver=pi.Picard(), rtol=1e-8, atol=0.0)
    np.testing.assert_allclose(found.value, [2.0, 0.0], rtol=1e-7)


bad: Any = pi
BAD = {
    "picard_damping": (lambda: bad.Picard(damping=0.0), ValueError, r"\(0, 1\]"),
    "anderson_damping": (lambda: bad.Anderson(damping=1.5), ValueError, r"\(0, 1\]"),
    "anderson_memory": (lambda: bad.Anderson(memory=0), ValueError, "positive integer"),
    "anderson_safeguard": (lambda: bad.Anderson(safeguard=0.5), ValueError, "at least 1"),
    "broyden_memory": (lambda: bad.Broyden(memory=2.5), ValueError, "positive integer"),
    "broyden_safeguard": (lambda: bad.Broyden(safeguard=-1), ValueError, "at least 1"),
    "broyden_jacobian": (lambda: bad.Broyden(jacobian="identity"), TypeError, "pi.Dense"),
    "newton_jacobian": (lambda: bad.Newton(jacobian=3.0), TypeError, "pi.Dense"),
    "newton_linear_solver": (lambda: bad.Newton(linear_solver="lu"), TypeError, "lineax"),
    "krylov_restart": (lambda: bad.NewtonKrylov(restart=0), ValueError, "positive integer"),
    "krylov_forcing": (lambda: bad.NewtonKrylov(forcing=1.0), ValueError, "between 0"),
    "krylov_preconditioner": (
        lambda: bad.NewtonKrylov(preconditioner=3.0), TypeError, "a function"),
    "gauss_newton": (lambda: bad.GaussNewton(linear_solver="qr"), TypeError, "lineax"),
    "marquardt_damping": (lambda: bad.LevenbergMarquardt(damping=0), ValueError, "posit"),
    "stepsize": (lambda: bad.GradientDescent(stepsize=-1.0), ValueError, "positive"),
    "prox": (lambda: bad.ProximalGradient(None), TypeError, "function"),
    "projection": (lambda: bad.ProjectedGradient(1.0), TypeError, "function"),
    "mirror": (lambda: bad.MirrorDescent(lambda *a: a[0]), ValueError, "step size"),
    "composite": (lambda: bad.BlockCoordinateDescent(shrink, squares), TypeError,
                  "LinearComposite"),
}  # fmt: skip


@named(BAD)
def test_bad_options(name):
    call, error, words = BAD[name]
    with pytest.raises(error, match=words) as caught:
        call()
    text = str(caught.value)
    assert "Got" in text and text.count("\n") == 2  # the rule, what was got, the remedy
