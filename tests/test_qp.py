"""Dense quadratic programmes in JAX: optima, multipliers, derivatives, bad input. (Every
transform is in test_transform_table.py.)"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi
from pyimplicit.optimize.in_parts import CACHE, in_parts

from .qp_problems import (
    NAMES,
    PEERS,
    failing,
    kinds,
    random_programme,
    stacked,
    structured,
    violation,
)


@pytest.fixture(autouse=True, scope="module")
def _in_jax():
    with pi.engine.use("host"):
        yield


@jax.jit
def solve_all(*batch):
    return jax.vmap(lambda *a: pi.qp(*a, throw=False))(*batch)


def mixture(seed):
    rng = np.random.default_rng(seed)
    made = [*kinds(rng, ["full", "lp", "rank", "scaled"] * 4), *structured().values()]
    return made, stacked(made)


@pytest.fixture(scope="module")
def solved():
    made, batch = mixture(0)
    return made, batch, solve_all(*batch)


def test_optima_meet_the_conditions(solved):
    made, _, got = solved
    assert (got.status == pi.Status.converged).all()
    assert got.stats["polished"].all()
    worst = [violation(programme, got, i) for i, programme in enumerate(made)]
    assert max(worst) < 1e-9, worst


@pytest.mark.parametrize("name", PEERS)
def test_optima_are_the_peers(name, solved):
    solve, near = PEERS[name]
    made, _, got = solved
    for ours, programme in zip(np.asarray(got.value), made, strict=True):
        assert abs(ours - solve(*programme)) < near * (1 + abs(ours))


def test_clarabel_solves_dense_programmes_with_bounds():
    # Infinite and equal bounds, rows that depend on each other, and no optimum at all.
    made = [*kinds(np.random.default_rng(3), ["full", "lp"]), *structured().values()]
    batch = stacked([*made, *(programme for _, programme in failing())])

    def value(*data):
        s = pi.qp(*data, solver=pi.Clarabel(), throw=False)
        return s.value, s

    run = jax.vmap(jax.grad(value, (1, 6, 7), has_aux=True))
    (by_q, by_lb, by_ub), s = jax.jit(run)(*batch)
    good = slice(len(made))
    assert s.status[len(made) :].tolist() == [int(status) for status, _ in failing()]
    assert (s.status[good] == 0).all() and s.stats["polished"][good].all()
    assert max(violation(programme, s, i) for i, programme in enumerate(made)) < 1e-9
    np.testing.assert_allclose(by_q[good], s.x[good], atol=1e-8)  # envelope theorem
    np.testing.assert_allclose(by_lb[good], s.z_lb[good], atol=1e-8)
    np.testing.assert_allclose(by_ub[good], -s.z_ub[good], atol=1e-8)
    assert jnp.isnan(by_q[len(made) :]).all()


def test_a_batch_does_not_change_its_samples(solved):
    made, batch, alone = solved
    contradictory = list(random_programme(np.random.default_rng(1), "full"))
    contradictory[5] = contradictory[4] @ np.zeros(7) - 100.0
    together = [a.at[5].set(b) for a, b in zip(batch, contradictory, strict=True)]
    mixed = solve_all(*together)
    others = np.arange(len(made)) != 5
    assert mixed.status[5] == pi.Status.infeasible
    np.testing.assert_array_equal(alone.x[others], mixed.x[others])
    np.testing.assert_array_equal(alone.z[others], mixed.z[others])


def test_the_slow_of_a_large_batch_go_on_alone():
    # Large enough to be divided; the last ones are badly scaled or infeasible.
    rng = np.random.default_rng(0)
    size, n, m = 80, 3, 5
    L, G = rng.normal(size=(size, n, n)), rng.normal(size=(size, m, n))
    P = np.einsum("bij,bkj->bik", L, L) * 10.0 ** rng.integers(-4, 4, (size, 1, 1))
    h = rng.normal(size=(size, m)) + np.where(np.arange(size) % 9 == 0, -1.0, 1.0)[:, None]
    data = tuple(map(jnp.asarray, (P, rng.normal(size=(size, n)), G, h)))
    one = lambda P, q, G, h: pi.qp(P, q, G=G, h=h, throw=False)
    together = jax.jit(jax.vmap(one))(*data)
    alone = jax.jit(lambda data: jax.lax.map(lambda d: one(*d), data))(data)
    np.testing.assert_array_equal(together.status, alone.status)
    assert len(np.unique(together.status)) > 1
    assert len(np.unique(together.stats["iterations"])) > 5
    np.testing.assert_allclose(together.x, alone.x, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(together.z, alone.z, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("size", [1, 8, 13, 16])  # whole parts, and one that reaches back
def test_a_batch_in_parts_is_the_batch(size):
    parts = -(-size // 8)
    numbers = CACHE * (os.cpu_count() or 1) // 8

    def solve(given):
        a, shared = given["a"], given["shared"]
        return {"x": jnp.cumsum(a) * shared, "large": a.max() > 0.5, "none": None}

    a, shared = np.random.default_rng(0).normal(size=(2, size, 3)), jnp.arange(3.0)
    axes = ({"a": 0, "shared": None},)
    many = jax.vmap(in_parts(solve, numbers), axes)
    program = jax.make_jaxpr(many)({"a": a[0], "shared": shared})
    assert ("scan" in str(program)) == (parts > 1)
    got = jax.jit(jax.vmap(many, axes))({"a": a, "shared": shared})
    np.testing.assert_allclose(got["x"], np.cumsum(a, -1) * shared, rtol=1e-15)
    np.testing.assert_array_equal(got["large"], a.max(-1) > 0.5)


C = jnp.array([4.0, -3.0])


def Q(t):
    return jnp.array([[2.0 + t**2, jnp.sin(t)], [jnp.sin(t), 3.0 + t]])


def test_multipliers_far_from_one():
    # The multiplier of the row is about 3 · size; all data move.
    def ours(P, q, G, h):
        s = pi.qp(P, q, G=G, h=h)
        return jnp.concatenate([s.x, s.z])

    def closed(P, q, G, h):
        P = (P + P.T) / 2
        K = jnp.block([[P, G.T], [G, jnp.zeros((1, 1))]])
        return jnp.linalg.solve(K, jnp.concatenate([-q, h]))

    def slopes(solve):
        def of(size):
            weights = jnp.array([0.3, -1.7, 0.9 / size])
            data = size * Q(0.7), -size * C, jnp.array([[1.0, 0.4]]), jnp.array([0.5])
            out, pull = jax.vjp(solve, *data)
            return out, pull(weights)

        return jax.jit(of)

    ours, closed = slopes(ours), slopes(closed)
    for size in (1e-3, 1.0, 1e3):
        (s, got), (_, wanted) = ours(size), closed(size)
        assert 0.5 < s[2] / size < 5
        near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)
        jax.tree.map(near, got, wanted)


def test_the_envelope_theorem():
    # The gradient of the optimal value, known without any adjoint: ½xxᵀ, x, yxᵀ, -y, zxᵀ,
    # -z, z_lb, -z_ub.
    made = kinds(np.random.default_rng(5), ["full", "lp", "scaled", "full"] * 4, False)
    batch = stacked([*made, *structured().values()])

    def values(data):
        s = jax.vmap(lambda *a: pi.qp(*a, throw=False))(*data)
        return jnp.sum(s.value), s

    gradient, s = jax.jit(jax.grad(values, has_aux=True))(batch)
    assert (s.status == 0).all()
    outer = lambda a, b: a[:, :, None] * b[:, None, :]
    wanted = (
        outer(s.x, s.x) / 2, s.x, outer(s.y, s.x), -s.y, outer(s.z, s.x), -s.z,
        s.z_lb, -s.z_ub,
    )  # fmt: skip
    for name, g, w in zip(NAMES, gradient, wanted, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-7, atol=1e-7, err_msg=name)


def test_gradients_agree_with_finite_differences():
    # Independent rows: x and all multipliers are smooth in everything.
    rng = np.random.default_rng(2)
    n, p, m = 5, 1, 4
    L = rng.normal(size=(n, n))
    data = (
        L @ L.T + np.eye(n), 5 * rng.normal(size=n),
        rng.normal(size=(p, n)), rng.normal(size=p),
        rng.normal(size=(m, n)), rng.normal(size=m), -np.full(n, 0.4), np.full(n, 0.7),
    )  # fmt: skip
    weights = rng.normal(size=3 * n + p + m)

    def loss(data):
        s = pi.qp(*data)
        return weights @ jnp.concatenate([s.x, s.y, s.z, s.z_lb, s.z_ub]), s

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, s), gradient = run(data)
    assert (s.z_lb + s.z_ub > 0).any() and (s.z > 0).any()
    moved = lambda t, step: tuple(a + t * d for a, d in zip(data, step, strict=True))
    for _ in range(3):
        step = [rng.normal(size=np.shape(a)) for a in data]
        after, before = (run(moved(t, step))[0][0] for t in (1e-5, -1e-5))
        slope = sum(np.sum(g * d) for g, d in zip(gradient, step, strict=True))
        np.testing.assert_allclose(slope, (after - before) / 2e-5, rtol=1e-6, atol=1e-7)
    found = pi.certificate(s)
    assert found.margin > 1e-3 and found.differentiable


def test_ill_conditioned_small_programmes():
    # P with eigenvalues from 1e-8 to 1, one bound active: x is chosen, then q follows.
    n = 3
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))[0]
    P = basis @ np.diag([1e-8, 1e-4, 1.0]) @ basis.T
    x, z = np.array([0.7, -1.3, 1.0]), np.array([0.0, 0.0, 2e-3])
    q, ub = -(P @ x + z), np.array([np.inf, np.inf, 1.0])
    free = np.linalg.inv(P[:2, :2])  # -∂x/∂q of the free unknowns
    ours = lambda q: pi.qp(P, q, ub=ub).x
    got, forward, back = jax.jit(
        lambda q: (ours(q), jax.jacfwd(ours)(q), jax.jacrev(ours)(q))
    )(q)
    np.testing.assert_allclose(got, x, rtol=1e-6)
    for J in (forward, back):
        np.testing.assert_allclose(J[:2, :2], -free, rtol=1e-6)
        np.testing.assert_allclose(J[2], 0.0, atol=1e-12)


BAD = {
    "indefinite P": (dict(P=-jnp.eye(2), q=jnp.ones(2)), "positive semidefinite"),
    "shape of P": (dict(P=jnp.eye(3), q=jnp.ones(2)), r"must have shape \(2, 2\)"),
    "batch": (dict(P=jnp.eye(2), q=jnp.ones((3, 2))), "vector"),
    "half": (dict(P=jnp.eye(2), q=jnp.ones(2), G=jnp.eye(2)), "go together"),
    "NaN": (dict(P=jnp.eye(2), q=jnp.array([1.0, jnp.nan])), "must be finite"),
    "lb = inf": (dict(P=jnp.eye(2), q=jnp.ones(2), lb=jnp.inf), "must be finite"),
    "crossed": (dict(P=jnp.eye(2), q=jnp.ones(2), lb=1.0, ub=0.0), "lb <= ub"),
    "complex": (dict(P=jnp.eye(2) * 1j, q=jnp.ones(2)), "real numbers"),
    "word": (dict(P=jnp.eye(2), q=jnp.ones(2), degenerate="clarke"), "least_norm"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_before_any_solve(name):
    given, message = BAD[name]
    with pytest.raises((ValueError, TypeError), match=message):
        pi.qp(**given)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="'julia', 'jax' or None"):
        pi.InteriorPoint(backend="fortran")  # pyright: ignore[reportArgumentType]


def test_bad_values_in_traced_input_are_a_status():
    one = jax.jit(lambda P, q, ub: pi.qp(P, q, ub=ub, throw=False).status)
    identity, ones = jnp.eye(2), jnp.ones(2)
    assert one(identity, ones, ones) == pi.Status.converged
    assert one(-identity, ones, ones) == pi.Status.not_positive_definite
    assert one(identity, ones * jnp.nan, ones) == pi.Status.nonfinite
    assert one(identity, ones, -ones * jnp.inf) == pi.Status.nonfinite


def test_single_precision():
    solve = jax.jit(lambda P, q: pi.qp(P, q, lb=q.dtype.type(-0.5)))
    narrow = solve(*(jnp.asarray(a, "float32") for a in (Q(0.7), -C)))
    wide = solve(Q(0.7), -C)
    assert narrow.x.dtype == jnp.float32
    np.testing.assert_allclose(narrow.x, wide.x, rtol=1e-5)
    np.testing.assert_allclose(narrow.z_lb, wide.z_lb, rtol=1e-5, atol=1e-6)
