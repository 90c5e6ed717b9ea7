"""jaxopt's decorators, with its calling convention, on solvers that JAX cannot see into."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.optimize

import pyimplicit as pi


RNG = np.random.default_rng(11)
X = jnp.array(RNG.normal(size=(9, 3)) * [1.0, 4.0, 0.3])
Y = jnp.array(RNG.normal(size=9) * 5)


def ridge_objective(w, penalty, X, y):
    return jnp.mean((X @ w - y) ** 2) / 2 + penalty * jnp.sum(w**2) / 2


gradient = jax.grad(ridge_objective)


def normal_equations(penalty, X, y):
    n = len(y)
    return jnp.linalg.solve(X.T @ X / n + penalty * jnp.eye(X.shape[1]), X.T @ y / n)


def ridge_solver(init, penalty, X, y):
    """NumPy, as a user's solver may be: it gets concrete arrays and is never traced."""
    del init
    X, y, n = np.asarray(X), np.asarray(y), len(y)
    return jnp.asarray(
        np.linalg.solve(X.T @ X / n + float(penalty) * np.eye(X.shape[1]), X.T @ y / n)
    )


def solve_cg(matvec, b, ridge=None, init=None):
    """With the signature of jaxopt's `solve_cg`."""
    del ridge
    return jax.scipy.sparse.linalg.cg(matvec, b, x0=init, tol=1e-12)[0]


SOLVES = {"default": None, "jaxopt": solve_cg, "lineax": lx.CG(1e-12, 1e-12)}


@pytest.mark.parametrize("solve", SOLVES)
def test_the_ridge_example_of_jaxopt(solve):
    decorated = pi.custom_root(gradient, solve=SOLVES[solve])(ridge_solver)
    at = 3.0, X, Y
    np.testing.assert_allclose(decorated(None, *at), normal_equations(*at), rtol=1e-12)
    exact = jax.jacobian(normal_equations, (0, 1, 2))(*at)
    for mode in (jax.jacrev, jax.jacfwd) if solve == "default" else (jax.jacrev,):
        found = mode(decorated, (1, 2, 3))(None, *at)  # (NumPy inside: not compiled)
        for f, e in zip(found, exact, strict=True):
            np.testing.assert_allclose(f, e, rtol=1e-7, atol=1e-9)
    if solve == "default":
        second = jax.hessian(lambda p: jnp.sum(decorated(None, p, X, Y)))(3.0)
        exact = jax.hessian(lambda p: jnp.sum(normal_equations(p, X, Y)))(3.0)
        np.testing.assert_allclose(second, exact, rtol=1e-6)


@pytest.mark.parametrize("call", ["positional", "keywords", "defaults"])
def test_arguments_are_matched_by_position_and_by_name(call):
    @pi.custom_root(gradient)
    def solver(init_params, penalty, X=X, y=Y):
        return normal_equations(*jax.lax.stop_gradient((penalty, X, y)))

    calls = {
        "positional": lambda p: solver(None, p, X, Y),
        "keywords": lambda p: solver(None, y=Y, X=X, penalty=p),
        "defaults": lambda p: solver(None, p),
    }
    exact = jax.jacobian(normal_equations)(2.0, X, Y)
    np.testing.assert_allclose(jax.jit(jax.jacrev(calls[call]))(2.0), exact, rtol=1e-9)


def test_aux_and_the_first_guess_have_no_derivative():
    @pi.custom_root(gradient, has_aux=True)
    def solver(init, penalty, X, y):
        return normal_equations(penalty, X, y), {"cost": penalty * 7, "name": "exact"}

    w, aux = solver(jnp.zeros(3), 2.0, X, Y)
    np.testing.assert_allclose(w, normal_equations(2.0, X, Y))
    assert aux["name"] == "exact"
    g = jax.grad(lambda init: jnp.sum(solver(init, 2.0, X, Y)[0]))(jnp.ones(3))
    np.testing.assert_array_equal(g, 0.0)
    g = jax.grad(lambda p: solver(None, p, X, Y)[1]["cost"])(2.0)
    assert g == 0.0


def test_scipy_and_closed_over_arrays():
    """The theorem needs no more than the condition: also for what it closes over."""

    def root_of_cubic(a, shift):
        condition = lambda z, b: z**3 + a * z - b - shift

        @pi.custom_root(condition)
        def solver(init, b):
            a_, b_, s = (float(jax.lax.stop_gradient(v)) for v in (a, b, shift))
            return jnp.asarray(
                scipy.optimize.brentq(lambda z: z**3 + a_ * z - b_ - s, -9, 9, xtol=1e-14)
            )

        return solver(None, 2.0)

    z = root_of_cubic(3.0, 0.5)
    # ∂z/∂a = -z/(3z² + a), from the condition; float() inside works as it is not traced.
    f = lambda a: pi.attach(z, lambda z, a: z**3 + a * z - 2.5, a)
    np.testing.assert_allclose(jax.grad(f)(3.0), -z / (3 * z**2 + 3.0), rtol=1e-12)


def test_a_fixed_point_map_with_pytrees():
    def step(z, theta):
        return {"a": 0.5 * (z["a"] + theta["x"] / z["a"]), "b": (jnp.cos(z["b"][0]),)}

    @pi.custom_fixed_point(step)
    def solver(init, theta):
        return jax.lax.fori_loop(0, 60, lambda _, z: step(z, theta), init)

    init = {"a": jnp.ones(2), "b": (jnp.array(1.0),)}
    theta = {"x": jnp.array([4.0, 9.0]), "n": 3}
    z = solver(init, theta)
    np.testing.assert_allclose(z["a"], [2.0, 3.0])
    np.testing.assert_allclose(z["b"][0], 0.7390851332151607, rtol=1e-10)
    total = lambda x: jnp.sum(solver(init, {**theta, "x": x})["a"])
    np.testing.assert_allclose(jax.jit(jax.grad(total))(theta["x"]), [1 / 4, 1 / 6])
    np.testing.assert_allclose(
        jax.hessian(total)(theta["x"]), np.diag([-1 / 32, -1 / 108]), atol=1e-12
    )


def test_a_solver_that_lies_is_found_out():
    lies = lambda init, p, X, y: normal_equations(p, X, y) + 0.1
    checked = pi.custom_root(gradient, tol=1e-6)(lies)
    with pytest.raises(jax.errors.JaxRuntimeError, match="is no root"):
        jax.block_until_ready(checked(None, 2.0, X, Y))
    honest = pi.custom_root(gradient, tol=1e-6)(ridge_solver)
    np.testing.assert_allclose(honest(None, 2.0, X, Y), normal_equations(2.0, X, Y))


def test_vmap_and_scan():
    @pi.custom_root(lambda z, p: z**3 - p)
    def cube_root(init, p):
        return jnp.cbrt(p) + 0 * init

    p = jnp.array([8.0, 27.0, 1e-3])
    slope = jax.vmap(jax.grad(cube_root, 1), (None, 0))(1.0, p)
    np.testing.assert_allclose(slope, p ** (-2 / 3) / 3, rtol=1e-12)
    total = lambda p: jax.lax.scan(lambda c, p: (c + cube_root(c, p), c), 0.0, p)[0]
    np.testing.assert_allclose(jax.grad(total)(p), p ** (-2 / 3) / 3, rtol=1e-12)


def test_the_same_names_as_jaxopt():
    """Ported code changes its import only: positions and names of jaxopt's signature."""
    import inspect

    for decorator in (pi.custom_root, pi.custom_fixed_point):
        names = list(inspect.signature(decorator).parameters)
        assert names[1:4] == ["has_aux", "solve", "reference_signature"]


NONSENSE: Any = "cg"
BAD = {
    "solve": (lambda: pi.custom_root(gradient, solve=NONSENSE), "matvec, b"),
    "names": (
        lambda: pi.custom_root(gradient)(lambda w, p, *, A, y: w)(None, 1.0, A=X, y=Y),
        "same names and order"),
    "count": (lambda: pi.custom_root(gradient)(lambda w, penalty: w)(None, 1.0),
              "reference_signature"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with pytest.raises(TypeError, match=words) as caught:
        call()
    assert "Got" in str(caught.value)
