"""Projections: closed Jacobians, kinks, limits, bad input, and jaxopt's values where it is
installed. Isotonic regression and sparse softmaxes too."""

import functools
import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi
from pyimplicit import projection as pr

from .projection_cases import (
    BOX,
    COST,
    FAILURE,
    INNER,
    MARGINALS,
    ORIGIN,
    PAIR,
    RNG,
    A,
    E,
    G,
    W,
    X,
    exponential_off,
    norm,
    normal,
    reals,
)  # fmt: skip


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
    assert exponential_off(p, None) < 1e-12 * size
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
        if name.endswith(("birkhoff", "transport")):  # slow to compile; proven elsewhere
            return
        expected = reals(theirs(*THEIRS[name]))
    tolerance = {"polyhedron": 5e-3, "box_section": 1e-5}.get(name, 1e-12)
    value = reals(ours(*THEIRS[name]))
    np.testing.assert_allclose(value, expected, atol=tolerance)
