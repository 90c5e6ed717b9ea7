"""The parts of fits: Krylov spaces, line searches, and a prior that is a matrix."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import inverse
from pyimplicit.inverse.krylov import (
    bidiagonal_start,
    bidiagonalise,
    enlarge,
    steihaug_cg,
)
from pyimplicit.inverse.linesearch import armijo, wolfe

from .test_inverse import Linear


def test_bidiagonalisation_keeps_its_promises():
    A, R = jnp.asarray(Linear.A), jnp.asarray(Linear.R)
    solve = lambda w: jnp.linalg.solve(R, w)
    d = jnp.ones(12)
    basis = bidiagonal_start(d, A.T @ d, solve(A.T @ d), 8)
    more = jax.jit(
        lambda basis: bidiagonalise(lambda v: A @ v, lambda u: A.T @ u, solve, basis, 4)
    )
    for _ in range(3):
        if int(basis.k) + 4 >= len(basis.alpha):
            basis = enlarge(basis)
        basis = more(basis)
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
