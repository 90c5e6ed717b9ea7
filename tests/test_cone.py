"""Conic programmes: closed forms for each cone, every transform, failure."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi


TIGHT = pi.Clarabel(1e-11)
UNKNOWN: Any = ["quadratic"]

# Each layer: theta -> numbers, and the same numbers in closed form. Multipliers from
# 1e-3 to 1e3 by `theta`, data that are not symmetric under any exchange.


def ball(theta):  # min ½s‖x‖² - cᵀx with ‖x‖ ≤ r
    r, s = theta[0], theta[1]
    c = jnp.array([3.0, -1.0]) * theta[2]
    A = jnp.concatenate([jnp.zeros((1, 2)), -jnp.eye(2)])
    b = jnp.zeros(3).at[0].set(r)
    sol = pi.cone_program(s * jnp.eye(2), -c, A, b, [pi.cones.SecondOrder(3)], solver=TIGHT)
    return jnp.concatenate([sol.x, sol.z])


def ball_exact(theta):
    r, s = theta[0], theta[1]
    c = jnp.array([3.0, -1.0]) * theta[2]
    u = c / jnp.linalg.norm(c)
    force = jnp.linalg.norm(c) - s * r
    return jnp.concatenate(
        [r * u, force * jnp.array([1.0, 0.0, 0.0]) - force * jnp.pad(u, (1, 0))]
    )


def as_sparse(A):
    rows, cols = np.nonzero(A)
    values = jnp.asarray(A[rows, cols])
    return pi.SparseOperator(pi.SparsePattern(rows, cols, A.shape), values)


def exponential(
    theta, stored=jnp.asarray
):  # min a x + t with t ≥ β exp(x/β): x = β log(-a)
    a, beta = theta[0], theta[1]
    A, b = -np.eye(3)[:, [0, 2]], jnp.array([0.0, 1.0, 0.0])
    q = jnp.stack([-a, jnp.ones(())])
    cones = [pi.cones.Exponential()]
    sol = pi.cone_program(None, q, stored(A), b * beta, cones, solver=TIGHT)
    return sol.x


def exponential_exact(theta):
    a, beta = theta[0], theta[1]
    return jnp.stack([beta * jnp.log(a), beta * a])


def power(theta):  # max c with a + p b = w, a^α b^(1-α) ≥ c: a = α w, b = (1 - α) w/p
    w, p = theta[0], theta[1]
    A = jnp.concatenate([jnp.stack([jnp.ones(()), p, jnp.zeros(())])[None], -jnp.eye(3)])
    b = jnp.zeros(4).at[0].set(w)
    cones = [pi.cones.Zero(1), pi.cones.Power(0.3)]
    return pi.cone_program(None, jnp.array([0.0, 0.0, -1.0]), A, b, cones, solver=TIGHT).x


def power_exact(theta):
    w, p = theta[0], theta[1]
    a, b = 0.3 * w, 0.7 * w / p
    return jnp.stack([a, b, a**0.3 * b**0.7])


def smallest(theta):  # min ⟨C, X⟩ with tr X = w, X ⪰ 0: w times the smallest eigenvector's
    C = jnp.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 4.0]]) + jnp.diag(theta)
    A = jnp.concatenate([pi.cones.vectorise(jnp.eye(3))[None], -jnp.eye(6)])
    b = jnp.zeros(7).at[0].set(2.0)
    cones = [pi.cones.Zero(1), pi.cones.PSD(3)]
    sol = pi.cone_program(None, pi.cones.vectorise(C), A, b, cones, solver=TIGHT)
    return jnp.append(sol.x, sol.z[0])


def smallest_exact(theta):
    C = jnp.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 4.0]]) + jnp.diag(theta)
    values, V = jnp.linalg.eigh(C)
    X = 2.0 * jnp.outer(V[:, 0], V[:, 0])
    return jnp.append(pi.cones.vectorise(X), -values[0])


def orthant(theta):  # the transform table's quadratic programme
    b, t = theta
    Q = jnp.array([[2.0 + t**2, jnp.sin(t)], [jnp.sin(t), 3.0 + t]])
    sol = pi.cone_program(
        Q, jnp.array([-4.0, 3.0]), jnp.array([[1.0, 0.0]]), b[None],
        [pi.cones.Nonnegative(1)],
        solver=TIGHT,
    )  # fmt: skip
    return jnp.concatenate([sol.x, sol.z])


def orthant_exact(theta):
    b, t = theta
    x1 = (-3.0 - jnp.sin(t) * b) / (3.0 + t)
    return jnp.stack([b, x1, 4.0 - (2.0 + t**2) * b - jnp.sin(t) * x1])


LAYERS = {
    "orthant": (orthant, orthant_exact, [0.5, 0.7]),
    "ball": (ball, ball_exact, [0.8, 2.0, 1.3]),
    "ball, small": (ball, ball_exact, [0.8, 2.0, 0.5064]),  # multiplier 1e-3
    "ball, large": (ball, ball_exact, [0.8, 2.0, 400.0]),
    "exponential": (exponential, exponential_exact, [2.5, 0.7]),
    "exponential, sparse": (
        functools.partial(exponential, stored=as_sparse),
        exponential_exact,
        [2.5, 0.7],
    ),
    "power": (power, power_exact, [3.0, 0.6]),
    "semidefinite": (smallest, smallest_exact, [0.1, -0.3, 0.2]),
}
V = jnp.linspace(-1.0, 1.7, 7)
TWO = jnp.array([1.0, 0.95])


def loss(f, theta):
    out = f(theta)
    return V[: out.size] @ out + jnp.sum(jnp.sin(out))


@functools.cache
def table(f):
    """All cells of the transform table in one program; derivatives in one direction."""
    grad = jax.grad(functools.partial(loss, f))

    @jax.jit
    def cells(theta):
        v = jnp.cos(jnp.arange(theta.size) + 1.0) * theta
        slope, curve = jax.jvp(grad, (theta,), (v,))
        return {
            "value, jvp": jax.jvp(f, (theta,), (v,)),
            "jit(grad)": slope,
            "fwd-rev": curve,
        }

    return cells


@functools.cache
def rest_of_table(f):
    grad = jax.grad(functools.partial(loss, f))

    @jax.jit
    def cells(theta):
        both = TWO[:, None] * theta
        return {
            "jacrev": jax.jacrev(f)(theta),
            "vmap(grad)": jax.vmap(grad)(both),
            "scan(grad)": jax.lax.scan(lambda _, t: (None, grad(t)), None, both)[1],
            "rev-rev": jax.grad(lambda t: V[: t.size] @ grad(t))(theta),
        }

    return cells


@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_have_their_closed_forms(name):
    check(table, *LAYERS[name])


@pytest.mark.parametrize("name", ["orthant", "ball"])
def test_every_other_cell_of_the_table(name):
    check(rest_of_table, *LAYERS[name])


def check(table, ours, exact, theta):
    got, wanted = (table(f)(jnp.array(theta)) for f in (ours, exact))
    for cell in wanted:
        for a, b in zip(*map(jax.tree.leaves, (got[cell], wanted[cell])), strict=True):
            tol = 2e-6 * (1 + float(jnp.abs(b).max()))
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=tol, err_msg=cell)


def test_transforms_without_jit():
    theta = jnp.array([0.8, 2.0, 1.3])
    for transform in (jax.grad, lambda f: lambda t: jax.jvp(f, (t,), (V[:3],))[1]):
        got, wanted = (
            transform(functools.partial(loss, f))(theta) for f in (ball, ball_exact)
        )
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


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
