"""Sparse quadratic programmes: the dense ones' answers, and sizes that no dense one has."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import pyimplicit as pi
from pyimplicit.optimize import qp_assemble
from pyimplicit.optimize.pseudo_inverse import pseudo_inverse
from pyimplicit.optimize.qp_kkt import KKT, KKTSolver, Sets, condense, refined
from pyimplicit.optimize.qp_sparse import sparse_programme


N, P_ROWS, M_ROWS = 8, 2, 5


def operator(M):
    M = sp.coo_array(M)
    pattern = pi.SparsePattern(M.row, M.col, M.shape)
    return pattern, jnp.asarray(M.data)


def data():
    """With a fixed unknown, an infinite bound and an infinite right-hand side."""
    rng = np.random.default_rng(1)
    some = lambda rows, density: (
        rng.normal(size=(rows, N)) * (rng.random((rows, N)) < density)
    )
    L = some(N, 0.3)
    P, A, G, x0 = (
        L @ L.T + 0.1 * np.eye(N),
        some(P_ROWS, 0.7),
        some(M_ROWS, 0.5),
        rng.normal(size=N),
    )
    b, h, q = A @ x0, G @ x0 + rng.uniform(0, 0.3, M_ROWS), 3 * rng.normal(size=N)
    lb, ub = x0 - rng.uniform(0, 1, N), x0 + rng.uniform(0, 1, N)
    h[2], lb[0], lb[3], ub[3] = np.inf, -np.inf, x0[3], x0[3]
    return P, q, A, b, G, h, lb, ub


WEIGHTS = jnp.asarray(np.random.default_rng(2).normal(size=3 * N + P_ROWS + M_ROWS))


def measured(s):
    return WEIGHTS @ jnp.concatenate([s.x, s.y, s.z, s.z_lb, s.z_ub]), s


def test_sparse_is_dense_forwards_backwards_and_twice():
    P, q, A, b, G, h, lb, ub = data()
    patterns, values = zip(*map(operator, (P, A, G)), strict=True)

    def sparse(P, q, A, b, G, h, lb, ub):
        P, A, G = (
            pi.SparseOperator(p, v) for p, v in zip(patterns, (P, A, G), strict=True)
        )
        return measured(pi.qp(P, q, A, b, G, h, lb, ub))

    dense = lambda *args: measured(pi.qp(*args))
    pick = lambda M, k: M[patterns[k].rows, patterns[k].cols]
    rest = tuple(map(jnp.asarray, (b, h, lb, ub)))
    ours = values[0], q, values[1], rest[0], values[2], *rest[1:]
    direction = jnp.linspace(-1.0, 1.0, N)

    @jax.jit
    def run(q):
        def by_q(q):
            slopes, s = jax.grad(sparse, range(8), has_aux=True)(ours[0], q, *ours[2:])
            return slopes[1], (slopes, s)

        out, curve, found = jax.jvp(by_q, (q,), (direction,), has_aux=True)
        return found, out, curve

    (got, s), _, curve = run(jnp.asarray(q))
    wanted, t = jax.jit(jax.grad(dense, range(8), has_aux=True))(P, q, A, b, G, h, lb, ub)
    P_, q_, A_, b_, G_, *bounds = wanted
    wanted = pick(P_, 0), q_, pick(A_, 1), b_, pick(G_, 2), *bounds
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)
    for name in ("x", "y", "z", "z_lb", "z_ub", "value"):
        np.testing.assert_allclose(getattr(s, name), getattr(t, name), atol=1e-9)
    after, before = (run(q + step * direction)[1] for step in (1e-6, -1e-6))
    np.testing.assert_allclose(curve, (after - before) / 2e-6, rtol=1e-5, atol=1e-6)


def chain(n):
    """min ½‖x - t‖² with |x_{i+1} - x_i| ≤ w: the projection on slowly varying signals."""
    i = np.arange(n - 1)
    rows = np.concatenate([i, i, n - 1 + i, n - 1 + i])
    cols = np.concatenate([i, i + 1, i, i + 1])
    G = pi.SparsePattern(rows, cols, (2 * n - 2, n))
    values = jnp.asarray(np.repeat([-1.0, 1.0, 1.0, -1.0], n - 1))
    eye = pi.SparsePattern(np.arange(n), np.arange(n), (n, n))
    P = pi.SparseOperator(eye, jnp.ones(n))
    return P, pi.SparseOperator(G, values)


def test_a_large_chain_obeys_the_envelope_theorem():
    n = 3000
    P, G = chain(n)
    t = jnp.asarray(np.cumsum(np.random.default_rng(0).normal(size=n)))

    def value(t, w):
        s = pi.qp(P, -t, G=G, h=w * jnp.ones(2 * n - 2))
        return s.value, s

    (t_bar, w_bar), s = jax.grad(value, (0, 1), has_aux=True)(t, jnp.array(0.5))
    assert s.stats["polished"] and (s.z > 1e-6).sum() > n / 10
    np.testing.assert_allclose(t_bar, -s.x, atol=1e-7)
    np.testing.assert_allclose(w_bar, -s.z.sum(), rtol=1e-7)


def test_small_multipliers_of_many_rows_are_no_kinks():
    # min ½‖x - t‖² with x ≤ 0, t of all sizes: x = min(t, 0) moves where t < 0, and by one
    # half at the one kink; multipliers are t.
    n = 3000
    t = np.geomspace(3e-5, 3e4, n) * np.where(np.arange(n) % 3, 1.0, -1.0)
    t[n // 2] = 0.0
    eye = pi.SparsePattern(np.arange(n), np.arange(n), (n, n))
    P = pi.SparseOperator(eye, jnp.ones(n))

    @jax.jit
    def run(t):
        solve = lambda t: (lambda s: (s.x, s))(pi.qp(P, -t, ub=0.0))
        return jax.jvp(solve, (t,), (jnp.ones(n),), has_aux=True)

    x, moved, s = run(jnp.asarray(t))
    np.testing.assert_allclose(x, np.minimum(t, 0.0), atol=1e-9)
    assert np.flatnonzero(s.sets.weak).tolist() == [n // 2]
    np.testing.assert_allclose(moved, np.where(t < 0, 1.0, 0.5 * (t == 0)), atol=1e-9)


def test_sparse_failures_are_statuses():
    eye = pi.SparsePattern([0, 1], [0, 1], (2, 2))
    A = pi.SparseOperator(pi.SparsePattern([0, 0], [0, 1], (1, 2)), jnp.ones(2))
    solve = lambda p, q, lb: pi.qp(
        pi.SparseOperator(eye, p), q, A, jnp.ones(1), lb=lb, throw=False
    )
    ones = jnp.ones(2)
    assert solve(ones, ones, 0 * ones).status == pi.Status.converged
    assert solve(ones, ones, ones).status == pi.Status.infeasible
    assert solve(-ones, ones, 0 * ones).status == pi.Status.not_positive_definite
    assert jnp.isnan(jax.grad(lambda q: solve(ones, q, ones).x.sum())(ones)).all()
    free = pi.lp(jnp.array([1.0, -1.0]), A, jnp.ones(1), throw=False)
    assert free.status == pi.Status.unbounded and free.x @ jnp.array([1.0, -1.0]) < 0
    with pytest.raises(TypeError, match="takes arrays"):
        pi.lp(ones, A, jnp.ones(1), solver=pi.InteriorPoint(backend="jax"))


def test_sparse_programmes_read_kinks_like_dense_ones():
    # min ½(x - t)² subject to x ≤ 0 at t = 0.
    one = pi.SparseOperator(pi.SparsePattern([0], [0], (1, 1)), jnp.ones(1))
    kink = lambda t, how: pi.qp(one, -t, G=one, h=jnp.zeros(1), degenerate=how).x[0]
    slope = lambda how: lambda v: jax.jvp(lambda t: kink(t, how), (jnp.zeros(1),), (v,))[1]

    @jax.jit
    def run(v):
        return [slope(how)(v) for how in ("least_norm", "one_sided", "smoothed")]

    np.testing.assert_allclose(run(jnp.ones(1)), [0.5, 0.0, 0.5], atol=1e-6)
    np.testing.assert_allclose(run(-jnp.ones(1)), [-0.5, -1.0, -0.5], atol=1e-6)


@pytest.mark.parametrize("form", ["whole", "condensed"])
def test_each_form_of_the_optimality_conditions_is_solved(form, monkeypatch):
    # Multipliers eliminated or not; strictly and weakly active rows.
    monkeypatch.setattr(qp_assemble, "condenses", lambda *_: form == "condensed")
    P, q, A, b, G, h, lb, ub = data()
    patterns, values = zip(*map(operator, (P, A, G)), strict=True)
    rng = np.random.default_rng(4)
    rows = M_ROWS + 2 * N
    active = jnp.asarray(rng.random(rows) < 0.3).at[3].set(False)
    weak = jnp.zeros(rows, bool).at[jnp.array([0, 3])].set(True)
    right = jnp.asarray(rng.normal(size=N + P_ROWS + rows))

    @jax.jit
    def run(values):
        operators = (pi.SparseOperator(p, v) for p, v in zip(patterns, values, strict=True))
        P, A, G = operators
        problem = sparse_programme((P, q, A, b, G, h, lb, ub))
        K = KKT.of(problem, Sets(active & ~weak, weak & False))
        L: Any = condense(K)
        v, error = refined(K, L, right)
        kink = KKT.of(problem, Sets(active & ~weak, weak))
        both = kink, kink.transpose()
        ours = [KKTSolver(L)._weakly(K, L, right) for K in both]
        return (
            K.mv(v),
            error,
            L.pattern.shape,
            ours,
            [pseudo_inverse(K.as_matrix(), right)[0] for K in both],
        )

    back, error, shape, ours, svd = run(values)
    assert shape[0] == (N if form == "condensed" else N + P_ROWS + M_ROWS)
    assert error < 1e-13
    np.testing.assert_allclose(back, right, atol=1e-12)
    for (v, ok), wanted in zip(ours, svd, strict=True):
        assert ok
        np.testing.assert_allclose(v, wanted, atol=1e-9)


@pytest.mark.julia
def test_sparse_programmes_in_julia_are_clarabels():
    P, q, A, b, G, h, lb, ub = data()
    patterns, values = zip(*map(operator, (P, A, G)), strict=True)
    P, A, G = (pi.SparseOperator(p, v) for p, v in zip(patterns, values, strict=True))
    batch = jnp.asarray(q) + 0.1 * jnp.asarray(np.random.default_rng(3).normal(size=(5, N)))
    batch = batch.at[3].set(jnp.nan)
    bounds = jnp.asarray(lb).at[0].set(-2.0), jnp.asarray(ub)

    def run(solver):
        one = lambda q, init=None: pi.qp(
            P, q, A, b, G, h, *bounds, solver=solver, init=init, throw=False
        )

        @jax.jit
        @jax.vmap
        def both(q):
            first = one(q)
            return first, one(1.01 * q, init=first)

        return both(batch)

    (s, warm), (t, cold) = run(pi.InteriorPoint(backend="julia")), run(pi.Clarabel())
    assert s.status.tolist() == [0, 0, 0, pi.Status.nonfinite, 0] == t.status.tolist()
    for ours, theirs in ((s, t), (warm, cold)):
        for name in ("x", "y", "z", "z_lb", "z_ub", "value"):
            a, b = getattr(ours, name), getattr(theirs, name)
            np.testing.assert_allclose(a, b, atol=1e-9, err_msg=name)
    good = np.array([0, 1, 2, 4])
    assert (
        warm.stats["polished"][good].all() and (warm.stats["iterations"][good] == 0).all()
    )
    assert (s.stats["iterations"][good] > 3).all()
