"""Conic programmes: sparse ones, failure, bad input. (Closed forms and transforms of each
cone are in test_transform_table.py.)"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi

from . import conic_blocks as conic
from .transforms import loss


UNKNOWN: Any = ["quadratic"]


def as_sparse(A):
    rows, cols = np.nonzero(A)
    values = jnp.asarray(A[rows, cols])
    return pi.SparseOperator(pi.SparsePattern(rows, cols, A.shape), values)


def test_sparse_programmes_have_the_derivatives_of_dense_ones():
    # Those are in test_transform_table.py. Here min t - a x with t ≥ β exp(x/β).
    block = conic.BLOCKS["exponential"]
    theta = jnp.array(block.theta)
    _, _, A, _, cones = block.programme(theta)
    A = as_sparse(np.asarray(A))

    def ours(theta):
        _, q, _, b, _ = block.programme(theta)
        s = pi.cone_program(None, q, A, b, cones, solver=pi.Clarabel(1e-11))
        return jnp.concatenate([s.x, s.z])

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(f, theta):
        along = jax.jvp(f, (theta,), (jnp.array([0.6, -2.0]),))
        return along, jax.grad(loss(f))(theta)

    exact = lambda theta: jnp.concatenate(block.exact(theta))
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)
    jax.tree.map(near, derivatives(ours, theta), derivatives(exact, theta))


# Without a point: x ≤ -1 and x ≥ 1; x - 3 ≥ ‖(x + 1, y)‖; exp(x) ≤ -1 (y = 1); a and
# b = -1 in the power cone; det < 0. With |b| + 1 for b they have one.
EMPTY = {
    "nonnegative": ([[1.0], [-1.0]], [-1.0, -1.0], [pi.cones.Nonnegative(2)]),
    "second order": (
        [[-1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]],
        [-3.0, 1.0, 0.0],
        [pi.cones.SecondOrder(3)],
    ),
    "exponential": ([[-1.0], [0.0], [0.0]], [0.0, 1.0, -1.0], [pi.cones.Exponential()]),
    "power": (
        [[-1.0, 0.0], [0.0, 0.0], [0.0, -1.0]],
        [0.0, -1.0, 0.0],
        [pi.cones.Power(0.3)],
    ),
    "semidefinite": ([[-1.0], [0.0], [0.0]], [0.0, 1.0, -1.0], [pi.cones.PSD(2)]),
}


@pytest.mark.parametrize(
    "name, store",
    [*((name, "dense") for name in EMPTY), ("nonnegative", "sparse")],
)
def test_failures_are_statuses_with_rays(name, store):
    A, b, cones = EMPTY[name]
    A, b = np.array(A), np.array(b)
    q = jnp.ones(A.shape[1]) * (-1 if name in ("nonnegative", "exponential") else 1)
    stored = as_sparse(A) if store == "sparse" else jnp.asarray(A)

    @jax.jit
    def run(q):
        def value(q, b):
            s = pi.cone_program(None, q, stored, b, cones, throw=False)
            return s.x.sum() + s.z.sum(), s

        slope, none = jax.grad(value, has_aux=True)(q, b)
        fine, free = (value(sign * q, jnp.abs(b) + 1)[1] for sign in (1, -1))
        return slope, none, fine, free

    slope, s, fine, free = run(q)
    assert s.status == pi.Status.infeasible and s.value == jnp.inf
    assert abs(A.T @ s.z).max() < 1e-6 and b @ s.z < -1e-3  # Farkas
    assert jnp.isnan(slope).all() and jnp.isnan(s.x).all()
    assert fine.status == pi.Status.converged
    if name != "nonnegative":  # the other way x has no end
        assert free.status == pi.Status.unbounded
        assert -q @ free.x < 0 and free.value == -jnp.inf and jnp.isnan(free.z).all()


def test_failures_of_what_is_given():
    """Traced: an indefinite P, NaN, infinity where it is no bound. Sparse P and A too."""
    cones = [pi.cones.SecondOrder(3), pi.cones.Nonnegative(1)]
    A = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    bad = {
        "fine": (np.eye(2), np.ones(2), [1.0, 0.0, 0.0, np.inf]),
        "indefinite": ([[1.0, 2.0], [2.0, 1.0]], np.ones(2), [1.0, 0.0, 0.0, 1.0]),
        "NaN": (np.eye(2), [np.nan, 1.0], [1.0, 0.0, 0.0, 1.0]),
        "infinite": (np.eye(2), np.ones(2), [np.inf, 0.0, 0.0, 1.0]),
        "-inf": (np.eye(2), np.ones(2), [1.0, 0.0, 0.0, -np.inf]),
    }
    P, q, b = (jnp.asarray(np.array(v)) for v in zip(*bad.values(), strict=True))
    pattern = pi.SparsePattern([0, 1, 0, 1], [0, 0, 1, 1], (2, 2))
    turned = as_sparse(A.T).transpose()

    @jax.jit
    @jax.vmap
    def run(P, q, b):
        dense = pi.cone_program(P, q, A, b, cones, throw=False)
        stored = pi.SparseOperator(pattern, P.ravel())
        sparse = pi.cone_program(stored, q, turned, b, cones, throw=False)
        return dense, sparse

    wanted = "converged", "not_positive_definite", "nonfinite", "nonfinite", "nonfinite"
    for s in run(P, q, b):
        assert s.status.tolist() == [int(pi.Status[name]) for name in wanted]
        assert jnp.isnan(s.x[1:]).all() and jnp.isnan(s.value[1:]).all()
        # -(1, 1) projected on the unit disc; the last row is no constraint
        np.testing.assert_allclose(s.x[0], [-(0.5**0.5)] * 2, atol=1e-9)
        np.testing.assert_allclose(s.z[0, 3], 0.0, atol=1e-9)
    for name in ("indefinite", "NaN", "infinite", "-inf"):
        with pytest.raises(ValueError, match=r"must be (finite|positive semidefinite)"):
            P, q, b = map(jnp.array, bad[name])
            pi.cone_program(P, q, A, b, cones)


def test_failures_raise():
    one, A = jnp.ones(1), jnp.array([[1.0], [-1.0]])
    with pytest.raises(Exception, match="no point satisfies all constraints"):
        cones = [pi.cones.Nonnegative(2)]
        jax.block_until_ready(pi.cone_program(None, one, A, -jnp.ones(2), cones).x)


def test_misfits_are_named_before_any_solve():
    one, A = jnp.ones(1), jnp.ones((2, 1))
    with pytest.raises(TypeError, match=r"Known: pi\.cones\.Zero"):
        pi.cone_program(None, one, A, jnp.ones(2), UNKNOWN)
    with pytest.raises(ValueError, match="cones of m rows"):
        pi.cone_program(None, one, A, jnp.ones(2), [pi.cones.Nonnegative(3)])
    with pytest.raises(TypeError, match="real numbers"):
        pi.cone_program(None, one * 1j, A, jnp.ones(2), [pi.cones.Nonnegative(2)])
    with pytest.raises(ValueError, match="vectors"):
        pi.cone_program(None, A, A, jnp.ones(2), [pi.cones.Nonnegative(2)])
    with pytest.raises(ValueError, match="between 0 and 1"):
        pi.cones.Power(1.5)
    with pytest.raises(ValueError, match="least_norm"):
        pi.cone_program(None, one, A, one, [pi.cones.Zero(2)], degenerate="one_sided")
