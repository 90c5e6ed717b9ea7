"""Projections: the inequality that defines them, exact Jacobians, kinks, bad input, and
jaxopt's values where it is installed. Isotonic regression and sparse softmaxes too."""

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import pyimplicit as pi
from pyimplicit import projection as pr


# What compiled code raises: JAX makes the one or the other of it.
FAILURE = (jax.errors.JaxRuntimeError, ValueError)
RNG = np.random.default_rng(3)
normal = lambda *shape: jnp.asarray(RNG.normal(size=shape))


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """`project(x, theta)`; `outside(p, theta)`: how far p is from the set, ≥ 0; `points`:
    some of the set; `convex`: whether the variational inequality holds."""

    name: str
    project: Callable[..., Any]
    x: Any
    theta: Any
    outside: Callable[..., Any]
    points: Any
    convex: bool = True

    def __repr__(self):
        return self.name


def _simplex_points(theta, n=5):
    return theta * np.concatenate([np.eye(n), np.full((1, n), 1 / n)])


def _simplex_off(p, value):
    return np.abs(p.sum() - value) + np.maximum(-p, 0).sum()


def _plan_off(P, theta):
    a, b = theta
    b = b * a.sum() / b.sum()
    apart = np.abs(P.sum(1) - a).sum() + np.abs(P.sum(0) - b).sum()
    return apart + np.maximum(-P, 0).sum()


def _plan_points(theta):
    a, b = theta
    return (np.outer(a, b) / b.sum())[None]


def _exponential_off(p, theta):
    a, b, c = p
    if b <= 1e-300:
        return np.maximum(-c, 0) + np.maximum(a, 0) + np.maximum(-b, 0)
    return np.maximum(b * np.exp(a / b) - c, 0)


def _permutahedron_off(p, w):
    p, w = np.sort(p)[::-1], np.sort(w)[::-1]
    excess = np.maximum(np.cumsum(p) - np.cumsum(w), 0).sum()
    return excess + np.abs(p.sum() - w.sum())


def _section_point(t):
    low, high, w, c = t
    return (low + (c - w @ low) / (w @ (high - low)) * (high - low))[None]


X = jnp.array([0.9, -1.3, 2.1, 0.4, 1.7])
PAIR = {"u": normal(3), "v": normal(2, 1)}
A = normal(2, 5)
W = jnp.array([0.5, 1.5, 2.0, 0.8, 1.1])
BOX = (jnp.array([-0.5, -1.0, 0.0, -0.2, -0.3]), jnp.array([0.7, 0.4, 1.2, 0.9, 0.6]))
COST = normal(3, 4)
MARGINALS = (jnp.array([0.23, 0.46, 0.31]), jnp.array([0.12, 0.39, 0.21, 0.28]))
INNER = jnp.array([0.1, -0.2, 0.3, 0.05, 0.02])
E, G, ORIGIN = normal(1, 3), normal(3, 3), jnp.array([0.1, 0.2, -0.3])

balanced = lambda a, b: (a, b * a.sum() / b.sum())
on_simplex = lambda p, theta: _simplex_off(p, 1)
nothing = lambda p, theta: 0.0
norm = lambda p: float(np.linalg.norm(reals(p)))
norm1 = lambda p: np.abs(p).sum()
excess = lambda a: np.maximum(a, 0).sum()
ball_points = lambda theta: np.concatenate([theta * np.eye(5), -theta * np.eye(5)])
rank_one = np.outer([1.0, -2, 3], [1, -2, 3])

CASES = (
    Case("non_negative", lambda x, t: pr.projection_non_negative(x), X, None,
         lambda p, t: excess(-p), lambda t: np.eye(5)),
    Case("box", lambda x, t: pr.projection_box(x, t), X, BOX,
         lambda p, t: excess(t[0] - p) + excess(p - t[1]), lambda t: np.stack(t)),
    Case("hypercube", pr.projection_hypercube, X, jnp.array(0.8),
         lambda p, t: excess(-p) + excess(p - t), lambda t: t * np.eye(5)),
    Case("linf_ball", pr.projection_linf_ball, X, jnp.array(0.8),
         lambda p, t: excess(np.abs(p) - t), lambda t: t * np.eye(5)),
    Case("simplex", pr.projection_simplex, X, jnp.array(1.5), _simplex_off,
         _simplex_points),
    Case("sparse_simplex", lambda x, t: pr.projection_sparse_simplex(x, 2, value=t), X,
         jnp.array(3.0), lambda p, t: _simplex_off(p, t) + (np.sum(p > 0) > 2),
         _simplex_points, False),
    Case("l1_sphere", pr.projection_l1_sphere, X, jnp.array(1.5),
         lambda p, t: np.abs(norm1(p) - t), ball_points, False),
    Case("l1_sphere_from_inside", pr.projection_l1_sphere, 0.1 * X, jnp.array(1.5),
         lambda p, t: np.abs(norm1(p) - t), ball_points, False),
    Case("l1_ball", pr.projection_l1_ball, X, jnp.array(1.5),
         lambda p, t: excess(norm1(p) - t), ball_points),
    Case("l2_sphere", pr.projection_l2_sphere, PAIR, jnp.array(1.5),
         lambda p, t: np.abs(norm(p) - t), ball_points, False),
    Case("l2_ball", pr.projection_l2_ball, PAIR, jnp.array(0.7),
         lambda p, t: excess(norm(p) - t), ball_points),
    Case("hyperplane", pr.projection_hyperplane, X, (W, jnp.array(3.0)),
         lambda p, t: np.abs(t[0] @ p - t[1]), lambda t: np.diag(t[1] / t[0])),
    Case("halfspace", pr.projection_halfspace, X, (W, jnp.array(3.0)),
         lambda p, t: excess(t[0] @ p - t[1]), lambda t: np.diag(t[1] / t[0])),
    Case("affine_set", pr.projection_affine_set, X, (A, A @ INNER),
         lambda p, t: np.abs(t[0] @ p - t[1]).sum(), lambda t: INNER[None]),
    Case("polyhedron", pr.projection_polyhedron, X[:3],
         (E, E @ ORIGIN, G, G @ ORIGIN + jnp.array([0.02, 0.5, 3.0])),
         lambda p, t: np.abs(t[0] @ p - t[1]).sum() + excess(t[2] @ p - t[3]),
         lambda t: ORIGIN[None]),
    Case("box_section", pr.projection_box_section, X, (*BOX, W, jnp.array(1.3)),
         lambda p, t: excess(t[0] - p) + excess(p - t[1]) + np.abs(t[2] @ p - t[3]),
         _section_point),
    Case("capped_simplex", lambda x, t: pr.projection_capped_simplex(x, *t), X,
         (jnp.array(2.0), jnp.array(0.8)),
         lambda p, t: _simplex_off(p, t[0]) + excess(p - t[1]),
         lambda t: np.full((1, 5), t[0] / 5)),
    Case("transport", lambda x, t: pr.projection_transport(x, balanced(*t)), COST,
         MARGINALS, _plan_off, _plan_points),
    Case("birkhoff", lambda x, t: pr.projection_birkhoff(x), COST[:, :3], None,
         lambda P, t: _plan_off(P, (np.ones(3), np.ones(3))),
         lambda t: np.eye(3)[np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]])]),
    Case("psd_cone", lambda x, t: pr.projection_psd_cone(x), normal(3, 3), None,
         lambda P, t: excess(-np.linalg.eigvalsh(P)) + np.abs(P - P.T).sum(),
         lambda t: np.stack([np.eye(3), rank_one])),
    Case("second_order_cone", lambda x, t: pr.projection_second_order_cone(x),
         X.at[0].set(0.3), None, lambda p, t: excess(np.linalg.norm(p[1:]) - p[0]),
         lambda t: np.array([[1.0, 0, 0, 0, 1], [2.0, -1, 1, 1, 1]])),
    Case("exponential_cone", lambda x, t: pr.projection_exponential_cone(x),
         jnp.array([0.7, -0.4, 0.9]), None, _exponential_off,
         lambda t: np.array([[-1.0, 0, 2], [1, 1, 3], [0.5, 2, 5]])),
    Case("isotonic", lambda x, t: pr.projection_isotonic(x), X, None,
         lambda p, t: excess(-np.diff(p)), lambda t: np.triu(np.ones((5, 5)))),
    Case("permutahedron", pr.projection_permutahedron, X, W * 2, _permutahedron_off,
         lambda t: np.stack([t, t[::-1]])),
)  # fmt: skip
# No projections, but tested like them but for the inequality.
LAYERS = (
    Case("soft_sort", pr.soft_sort, X, jnp.array(0.7), nothing, None, False),
    Case("soft_rank", pr.soft_rank, X, jnp.array(0.7), nothing, None, False),
    Case("isotonic_regression", lambda x, t: pi.isotonic_regression(x, t, -1.0, 1.6), X, W,
         nothing, None, False),
    Case("sparsemax", lambda x, t: pi.sparsemax(x), X, None, on_simplex,
         None, False),
    Case("entmax", pi.entmax, X, jnp.array(1.3), on_simplex, None, False),
)  # fmt: skip


def reals(tree):
    return np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree)])


@functools.cache
def programs(case):
    """The parameters as one vector; how many of them are x; and, over a batch of vectors,
    the value and its Jacobians in both modes; a gradient and its Jacobians in both."""
    flat, unravel = ravel_pytree((case.x, case.theta))
    onto = lambda v: ravel_pytree(case.project(*unravel(v)))[0]
    weights = np.cos(1.0 + np.arange(jax.eval_shape(onto, flat).size))
    slope = jax.grad(lambda v: weights @ jnp.sin(onto(v)))
    first = jax.jit(jax.vmap(lambda v: (onto(v), jax.jacfwd(onto)(v), jax.jacrev(onto)(v))))
    second = jax.jit(
        jax.vmap(lambda v: (slope(v), jax.jacfwd(slope)(v), jax.jacrev(slope)(v)))
    )
    return np.asarray(flat), reals(case.x).size, first, second


def differences(program, flat, step):
    """Central differences of the first output, and all outputs at `flat`, in one batch."""
    n = flat.size
    steps = np.concatenate([np.zeros((2, n)), step * np.eye(n), -step * np.eye(n)])
    value, *jacobians = (np.asarray(out) for out in program(flat + steps))
    quotient = (value[2 : n + 2] - value[n + 2 :]).T / (2 * step)
    return quotient, value[0], *(J[0] for J in jacobians)


every = pytest.mark.parametrize("case", CASES + LAYERS, ids=repr)


@every
def test_is_the_projection(case):
    flat, k, first, _ = programs(case)
    scales = np.resize([0.0, 0.1, 1.0, 10.0], 2 * flat.size + 2)[:, None]
    noise = scales * RNG.normal(size=(scales.size, k))
    x = flat + np.pad(noise, [(0, 0), (0, flat.size - k)])
    p = np.asarray(first(x)[0])
    theta, some = jax.tree.map(np.asarray, case.theta), case.points
    like = jax.eval_shape(case.project, case.x, case.theta)
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([a.size for a in leaves])[:-1]
    for v, q in zip(x[:, :k], p, strict=True):
        pieces = [
            c.reshape(a.shape) for c, a in zip(np.split(q, ends), leaves, strict=True)
        ]
        assert case.outside(jax.tree.unflatten(structure, pieces), theta) < 1e-9 * (
            1 + norm(v)
        )
        if case.convex:  # ⟨x - p, y - p⟩ ≤ 0 for all y of the set
            for y in (*np.asarray(some(theta)).reshape(-1, q.size), *p):
                assert (v - q) @ (y - q) < 1e-9 * (1 + norm(v) ** 2)
        elif callable(some):
            assert norm(v - q) <= min(norm(v - y) for y in p) + 1e-9


@every
def test_jacobians(case):
    flat, _, first, _ = programs(case)
    quotient, value, forward, reverse = differences(first, flat, 1e-6)
    np.testing.assert_allclose(forward, reverse, atol=1e-9)
    np.testing.assert_allclose(reverse, quotient, atol=3e-7)
    assert np.abs(reverse).max() > 1e-2
    assert not np.isnan(value).any()


# One of each kind: formulas, `attach` with each of its linear solvers. (The others are
# piecewise affine in x; their formulas in theta are JAX's to differentiate.)
CURVED = (
    "l2_sphere", "hyperplane", "affine_set", "box_section", "birkhoff", "psd_cone",
    "second_order_cone", "exponential_cone", "isotonic_regression", "entmax",
)  # fmt: skip


@pytest.mark.parametrize("case", [c for c in CASES + LAYERS if c.name in CURVED], ids=repr)
def test_second_order(case):
    flat, _, _, second = programs(case)
    quotient, _, over_reverse, twice_reverse = differences(second, flat, 1e-5)
    np.testing.assert_allclose(over_reverse, twice_reverse, atol=1e-8)
    np.testing.assert_allclose(over_reverse, quotient, atol=2e-6)


@every
def test_batch_is_independent(case):
    flat, k, first, _ = programs(case)
    mates = np.resize(flat, (2 * flat.size + 2, flat.size))
    mates[1:, :k] *= RNG.normal(size=(len(mates) - 1, 1)) * 10
    for one, other in zip(
        first(mates), first(mates[:1].repeat(len(mates), 0)), strict=True
    ):
        np.testing.assert_array_equal(one[0], other[0])


@every
def test_nan_is_not_hidden(case):
    flat, k, first, _ = programs(case)
    x = np.resize(flat, (2 * flat.size + 2, flat.size))
    x[:, k // 2] = np.nan
    try:
        value = np.asarray(first(x)[0])
    except FAILURE:
        return
    assert np.isnan(value).any()


def with_jacobians(project, x):
    return jax.jit(lambda x: (project(x), jax.jacfwd(project)(x), jax.jacrev(project)(x)))(
        x
    )


def _m(support):
    m = jnp.asarray(support, float)
    return jnp.diag(m) - jnp.outer(m, m) / m.sum()


def _l1(x, r):
    p = pr.projection_l1_sphere(x, r)
    s = jnp.sign(x) * (p != 0)
    return jnp.diag(jnp.abs(s)) - jnp.outer(s, s) / jnp.abs(s).sum()


def _l2(x, r):
    u = x / norm(x)
    return r / norm(x) * (jnp.eye(5) - jnp.outer(u, u))


CLOSED = {
    "simplex": (lambda x: pr.projection_simplex(x, 1.5), lambda x: _m([0, 0, 1, 0, 1])),
    "l1_sphere": (lambda x: pr.projection_l1_sphere(x, 2.0), lambda x: _l1(x, 2.0)),
    "l1_ball": (lambda x: pr.projection_l1_ball(x, 2.0), lambda x: _l1(x, 2.0)),
    "l1_ball_inside": (lambda x: pr.projection_l1_ball(x, 20.0), lambda x: jnp.eye(5)),
    "l2_sphere": (lambda x: pr.projection_l2_sphere(x, 30.0), lambda x: _l2(x, 30.0)),
    "l2_ball": (lambda x: pr.projection_l2_ball(x, 0.3), lambda x: _l2(x, 0.3)),
    "l2_ball_inside": (lambda x: pr.projection_l2_ball(x, 30.0), lambda x: jnp.eye(5)),
    "linf_ball": (pr.projection_linf_ball, lambda x: jnp.diag(abs(x) < 1.0) * 1.0),
    "affine_set": (lambda x: pr.projection_affine_set(x, (A, jnp.ones(2))),
                   lambda x: jnp.eye(5) - jnp.linalg.pinv(A) @ A),
    "isotonic": (lambda x: pi.isotonic_regression(x, W),  # blocks {0, 1}, {2, 3}, {4}
                 lambda x: jax.scipy.linalg.block_diag(
                     jnp.tile(W[:2] / W[:2].sum(), (2, 1)),
                     jnp.tile(W[2:4] / W[2:4].sum(), (2, 1)), 1.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", CLOSED)
def test_closed_jacobians(name):
    project, jacobian = CLOSED[name]
    _, forward, reverse = with_jacobians(project, X)
    np.testing.assert_allclose(forward, jacobian(X), atol=1e-12)
    np.testing.assert_allclose(reverse, jacobian(X), atol=1e-12)


def test_simplex_at_scale():
    x = jnp.asarray(RNG.normal(size=20_000)) * 30
    p = pr.projection_simplex(x, 7.0)
    tau = (x - p)[jnp.argmax(p)]
    assert abs(p.sum() - 7) < 1e-11 and jnp.all(p >= 0)
    np.testing.assert_allclose(p, jnp.maximum(x - tau, 0), atol=1e-12)
    # Gaps that fall by a factor: Newton's method for τ drops few entries a step.
    hard = 1 - 0.5 ** jnp.arange(40.0)
    p = pr.projection_simplex(hard)
    assert abs(p.sum() - 1) < 1e-14
    shifted = pr.projection_simplex(jnp.array([1.0, 0.5, -jnp.inf]) + 1e9)
    np.testing.assert_allclose(shifted, [0.75, 0.25, 0])
    single = pr.projection_simplex(jnp.arange(4, dtype=jnp.float32))
    assert single.dtype == jnp.float32
    assert pr.projection_simplex(jnp.array([3, 1, 2])).dtype == jnp.float64


def test_repeated_and_zero_eigenvalues():
    Q = jnp.linalg.qr(normal(4, 4))[0]
    values = jnp.array([2.0, 2.0, -1.0, -1.0])
    X, H = (Q * values) @ Q.T, normal(4, 4)
    H = H + H.T
    omega = (jnp.maximum(values, 0)[:, None] + jnp.maximum(values, 0)) / (
        jnp.abs(values)[:, None] + jnp.abs(values)
    )
    expected = Q @ (omega * (Q.T @ H @ Q)) @ Q.T
    _, tangent = jax.jvp(pr.projection_psd_cone, (X,), (H,))
    np.testing.assert_allclose(tangent, expected, atol=1e-12)
    rank_one = jnp.outer(jnp.ones(4), jnp.ones(4))  # a threefold zero
    (ct,) = jax.vjp(pr.projection_psd_cone, rank_one)[1](H)
    u = jnp.full(4, 0.5)
    v = jnp.eye(4) - jnp.outer(u, u)
    np.testing.assert_allclose(ct, H - v @ H @ v, atol=1e-12)


@pytest.mark.parametrize(
    "project, x, value, jacobian",
    [
        (pr.projection_non_negative, [0.0, 1.0], [0, 1], [[0, 0], [0, 1]]),
        (pr.projection_l2_ball, [0.0, 0.0], [0, 0], [[1, 0], [0, 1]]),
        (pr.projection_l2_ball, [0.6, 0.8], [0.6, 0.8], [[1, 0], [0, 1]]),
        (pr.projection_l1_ball, [0.0, 0.0], [0, 0], [[1, 0], [0, 1]]),
        (pr.projection_l1_ball, [0.0, 1.0], [0, 1], [[1, 0], [0, 1]]),
        (pr.projection_l1_sphere, [0.0, 0.0], [0.5, 0.5], [[0.5, -0.5], [-0.5, 0.5]]),
        (pr.projection_simplex, [1.0, 0.0], [1, 0], [[0, 0], [0, 0]]),
        (pr.projection_simplex, [0.0, 0.0], [0.5, 0.5], [[0.5, -0.5], [-0.5, 0.5]]),
        (pr.projection_second_order_cone, [0.0, 0.0], [0, 0], [[1, 0], [0, 1]]),
        (pr.projection_second_order_cone, [-1.0, 0.0], [0, 0], [[0, 0], [0, 0]]),
        (pr.projection_isotonic, [1.0, 1.0], [1, 1], [[1, 0], [0, 1]]),
        (lambda x: pr.projection_psd_cone(jnp.diag(x)).diagonal(), [0.0, 0.0], [0, 0],
         [[0, 0], [0, 0]]),
        (lambda x: pr.projection_halfspace(x, (jnp.array([1.0, 0]), 1.0)), [1.0, 2.0],
         [1, 2], [[1, 0], [0, 1]]),
        (lambda x: pr.projection_box(x, (0.0, 1.0)), [0.0, 1.0], [0, 1], [[0, 0], [0, 0]]),
        (lambda x: pr.projection_capped_simplex(x, 2.0), [3.0, 4.0], [1, 1],
         [[0, 0], [0, 0]]),
    ],
)  # fmt: skip
def test_kinks(project, x, value, jacobian):
    """One of the one-sided derivatives, the one that is documented, and never NaN."""
    ours, forward, reverse = with_jacobians(project, jnp.array(x))
    np.testing.assert_allclose(ours, value, atol=1e-15)
    np.testing.assert_allclose(forward, jacobian, atol=1e-12)
    np.testing.assert_allclose(reverse, jacobian, atol=1e-12)


def test_no_derivative_where_the_answer_is_not_unique():
    zero = jnp.zeros(4)
    p = pr.projection_l2_sphere(zero, 3.0)
    np.testing.assert_allclose(norm(p), 3.0)
    assert jnp.all(jnp.isnan(jax.jacrev(pr.projection_l2_sphere)(zero)))
    masked = lambda x: 0.0 * pr.projection_l2_sphere(x).sum()
    np.testing.assert_array_equal(jax.grad(masked)(zero), 0)


def test_a_permutation_stands_still():
    sharp = 50 * COST[:, :3]
    P, _, J = with_jacobians(pr.projection_birkhoff, sharp)
    assert set(np.unique(P.round(12))) == {0.0, 1.0}
    np.testing.assert_allclose(J, 0, atol=1e-12)
    move = lambda a: pr.projection_transport(sharp, (a, jnp.ones(3)))
    with pytest.raises(FAILURE, match="linear solve failed"):
        jax.block_until_ready(jax.jvp(move, (jnp.ones(3),), (jnp.array([1.0, 0.0, -1.0]),)))


EXPONENTIAL = jax.jit(
    lambda x: (
        pr.projection_exponential_cone(x),
        jax.jacrev(pr.projection_exponential_cone)(x),
    )
)


@pytest.mark.parametrize(
    "x",
    [[1.0, 2, 30], [-1.0, -1, 1], [-1.0, -1, -1], [1.0, -9, -1], [300.0, 4, -5],
     [0.0, 0, -1], [1e-3, 1e-4, 1e5], [-5.0, 1e-3, -2], [20.0, 0, 1e6], [0.0, 1, 0.5],
     [1e3, 1e3, 1], [1e-9, -3.0, 2.0], [-1e4, 1e-3, -7.0], [1e5, 1e-5, 1.0]],
)  # fmt: skip
def test_exponential_cone_by_moreau(x):
    """x = p + r with p in the cone, r in the polar cone, ⟨p, r⟩ = 0."""
    x = np.array(x)
    p, J = map(np.asarray, EXPONENTIAL(x))
    u, v, w = -(x - p)  # in the dual cone
    size = norm(x)
    assert abs(p @ (x - p)) < 1e-12 * size**2
    assert _exponential_off(p, None) < 1e-12 * size
    flat = abs(u) < 1e-12 * size
    assert (v > -1e-9 * size and w > -1e-9 * size) if flat else (
        u < 0 and -u * np.exp(v / u) <= np.e * w + 1e-9 * size
    )  # fmt: skip
    # The Jacobian of a projection onto a cone: symmetric, J x = p, between 0 and 1.
    np.testing.assert_allclose(J, J.T, atol=1e-8)
    np.testing.assert_allclose(J @ x, p, atol=1e-9 * size)
    assert -1e-9 < np.linalg.eigvalsh(J).min() <= np.linalg.eigvalsh(J).max() < 1 + 1e-9


def test_soft_sort_and_rank_limits():
    np.testing.assert_allclose(pr.soft_sort(X, 1e-3), jnp.sort(X), atol=1e-12)
    np.testing.assert_allclose(pr.soft_sort(X, 1e-3, True), jnp.sort(X)[::-1], atol=1e-12)
    np.testing.assert_allclose(pr.soft_rank(X, 1e-3), [3, 1, 5, 2, 4], atol=1e-12)
    np.testing.assert_allclose(pr.soft_rank(X, 1e-3, True), [3, 5, 1, 4, 2], atol=1e-12)
    np.testing.assert_allclose(pr.soft_sort(X, 1e4), X.mean(), atol=1e-3)
    np.testing.assert_allclose(pr.soft_rank(X, 1e4), 3, atol=1e-3)
    np.testing.assert_allclose(
        jax.jacrev(pr.soft_sort)(X, 1e-3), jnp.eye(5)[jnp.argsort(X)]
    )


def test_isotonic_regression_against_scipy():
    from scipy.optimize import isotonic_regression

    y, w = RNG.normal(size=300) + np.linspace(0, 2, 300), RNG.uniform(0.1, 5, 300)
    for increasing in (True, False):
        theirs = isotonic_regression(y, weights=w, increasing=increasing).x
        ours = pi.isotonic_regression(y, w, increasing=increasing)
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    np.testing.assert_array_equal(pi.isotonic_regression([3.0]), [3.0])
    assert np.isnan(pi.isotonic_regression(y, -w)).all()


def test_entmax_family():
    close = functools.partial(np.testing.assert_allclose, atol=1e-7)
    close(pi.entmax(X, 1 + 1e-8), jax.nn.softmax(X))
    close(pi.entmax(X, 1), jax.nn.softmax(X))
    close(pi.entmax(X, 2.0), pi.sparsemax(X), atol=1e-14)
    close(jax.jacrev(pi.entmax)(X, 2.0), jax.jacrev(pi.sparsemax)(X), atol=1e-12)
    p = pi.entmax(
        X, 1.5
    )  # its own optimality condition: √p - x/2 is the same on the support
    tau = (X / 2 - jnp.sqrt(p))[p > 0]
    close(tau, tau[0], atol=1e-14)
    assert jnp.all(X[p == 0] / 2 <= tau[0])
    s = p**0.5  # Peters, Niculae, Martins, Eq. (14)
    close(
        jax.jacrev(pi.entmax)(X, 1.5), jnp.diag(s) - jnp.outer(s, s) / s.sum(), atol=1e-12
    )
    rows = normal(2, 3, 4)
    close(pi.entmax(rows, axis=1).sum(1), 1.0)
    close(pi.sparsemax(rows, axis=0).sum(0), 1.0)


V, M = jnp.ones(3), jnp.ones((2, 3))
BAD = [
    (lambda: pr.projection_simplex(M), r"(?s)shape \(n,\).*jax\.vmap"),
    (lambda: pr.projection_simplex(V, -1.0), "must be positive"),
    (lambda: pr.projection_sparse_simplex(V, 4), r"integer in 1\.\.3"),
    (lambda: pr.projection_l1_ball(V, 0), "must be positive"),
    (lambda: pr.projection_l2_sphere(V, -2.0), "must be positive"),
    (lambda: pr.projection_hypercube(V, -2.0), "must be positive"),
    (lambda: pr.projection_box(V, (1.0, 0.0)), "lower ≤ upper"),
    (lambda: pr.projection_hyperplane(V, (jnp.ones(4), 1.0)), "look like x"),
    (lambda: pr.projection_affine_set(V, (M, jnp.ones(3))), r"must be \(m, 3\)"),
    (lambda: pr.projection_polyhedron(V, (M, V)), r"\(A, b, G, h\)"),
    (lambda: pr.projection_box_section(V, (jnp.ones(2), 1.0, 1.0, 1.0)), "shape of alpha"),
    (lambda: pr.projection_psd_cone(M), "square"),
    (lambda: pr.projection_exponential_cone(jnp.ones(4)), "three numbers"),
    (lambda: pr.projection_permutahedron(V, jnp.ones(2)), "look like x"),
    (lambda: pr.projection_birkhoff(M), "square"),
    (lambda: pr.projection_transport(M, (V, V)), r"must be \(2,\) and \(3,\)"),
    (lambda: pr.projection_transport(M, V), "pair"),
    (lambda: pi.isotonic_regression(V, jnp.ones(2)), "look like x"),
    (lambda: pi.entmax(V, 0.5), "at least 1"),
    (lambda: pi.sparsemax(V, axis=1), "axis of x"),
    (lambda: pr.soft_rank(V, 0.0), "must be positive"),
]  # fmt: skip


@pytest.mark.parametrize("call, message", BAD)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message) as info:
        call()
    rule, got, remedy = str(info.value).split("\n")
    assert "`" in rule and got.startswith("Got ") and remedy


def test_empty_sets():
    twice = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    p = pr.projection_affine_set(V, (twice, jnp.array([1.0, 1.0])))
    np.testing.assert_allclose(p, [0.5, 0.5, 1.0], atol=1e-14)
    raises = functools.partial(pytest.raises, FAILURE)
    with raises(match="contradict"):
        jax.jit(pr.projection_affine_set)(V, (twice, jnp.array([1.0, 2.0])))
    section = (0.0, 1.0, 1.0, 7.0)
    assert jnp.isnan(pr.projection_box_section(V, section)).all()
    with raises(match="no p with alpha"):
        jax.jit(lambda x: pr.projection_box_section(x, section, True))(V)
    empty = (None, None, jnp.array([[1.0, 0, 0], [-1.0, 0, 0]]), jnp.array([-1.0, -1.0]))
    with raises(match="no point satisfies"):
        jax.block_until_ready(pr.projection_polyhedron(V, empty))
    assert jnp.isnan(pr.projection_polyhedron(V, empty, check_feasible=False)).all()
    with raises(match="one mass"):
        pr.projection_transport(M, (jnp.ones(2), V))
    with raises(match="not negative"):
        pr.projection_transport(M, (jnp.array([3.0, -1.0]), V * 2 / 3))
    with raises(match="NaN"):
        pr.projection_transport(M * jnp.nan, (jnp.ones(2), V * 2 / 3))
    assert jnp.isnan(pr.projection_box(X, (jnp.array(1.0), jnp.array(0.0)))).all()


THEIRS = {
    "simplex": (X, 1.5), "sparse_simplex": (X, 2), "l1_sphere": (X, 1.5),
    "l1_ball": (X, 1.5), "l2_sphere": (PAIR, 1.5), "l2_ball": (PAIR, 0.5),
    "linf_ball": (X, 0.5), "non_negative": (PAIR,), "box": (X, (-0.1, 0.3)),
    "hypercube": (X, 0.5),
    "hyperplane": (X, (W, 3.0)), "halfspace": (X, (W, 3.0)),
    "affine_set": (X, (A, A @ INNER)), "box_section": (X, (*BOX, W, 1.3)),
    "transport": (COST, MARGINALS),
    "polyhedron": (X[:3], (E, E @ ORIGIN, G, G @ ORIGIN + 0.1)), "birkhoff": (COST[:, :3],),
    "kl_transport": (COST, MARGINALS), "kl_birkhoff": (COST[:, :3],),
}  # fmt: skip


@pytest.mark.parametrize("name", THEIRS)
def test_against_jaxopt(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pytest.importorskip("jaxopt.projection")
        full = (
            name.replace("kl_", "kl_projection_") if "kl_" in name else f"projection_{name}"
        )
        theirs, ours = getattr(theirs, full), getattr(pr, full)
        parameters = [inspect.signature(f).parameters.values() for f in (ours, theirs)]
        same = [[(p.name, p.default) for p in ps] for ps in parameters]
        assert same[0] == same[1]
        if name in ("birkhoff", "kl_birkhoff"):  # special cases, and slow to compile
            return
        expected = reals(theirs(*THEIRS[name]))
    iterative = name in (
        "transport",
        "birkhoff",
        "kl_transport",
        "kl_birkhoff",
        "polyhedron",
    )
    tolerance = 5e-3 if iterative else 1e-5 if name == "box_section" else 1e-12
    value = reals(ours(*THEIRS[name]))
    np.testing.assert_allclose(value, expected, atol=tolerance)
