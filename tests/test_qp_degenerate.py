"""Quadratic programmes without a derivative in the usual sense, or without a solution."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi


@pytest.fixture(autouse=True, scope="module")
def _in_jax():
    with pi.engine.use("host"):
        yield


def kink(
    t, degenerate: Any = "least_norm"
):  # min ½(x - t)² subject to x ≤ 0: x = min(t, 0)
    return pi.qp(jnp.eye(1), -t, G=jnp.eye(1), h=jnp.zeros(1), degenerate=degenerate).x[0]


ZERO, ONE = jnp.zeros(1), jnp.ones(1)


def test_the_readings_of_a_kink():
    names = "least_norm", "one_sided", "smoothed"

    @jax.jit
    def slopes(t):
        layers = [lambda t, how=how: kink(t, degenerate=how) for how in names]
        along = lambda f: lambda v: jax.jvp(f, (t,), (v,))[1]
        return [jax.vmap(along(f))(jnp.stack([ONE, -ONE])) for f in layers]

    wanted = [0.5, -0.5], [0.0, -1.0], [0.5, -0.5]
    for got, expected in zip(slopes(ZERO), wanted, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)
    one_sided = jax.jit(jax.grad(lambda t: kink(t, degenerate="one_sided")))
    np.testing.assert_allclose(one_sided(-ONE)[0], 1.0, atol=1e-9)
    np.testing.assert_allclose(one_sided(ONE)[0], 0.0, atol=1e-9)
    with pytest.raises(Exception, match="no linear map"):
        jax.block_until_ready(one_sided(ZERO))
    found = pi.certificate(pi.qp(jnp.eye(1), ZERO, G=jnp.eye(1), h=ZERO))
    assert found.margin < 1e-12 and found.weak["G"].all() and not found.differentiable


def test_the_central_path_has_its_closed_form():
    # x + z = t, -x z = μ: x = (t - √(t² + 4μ))/2.
    mu, t = 0.01, jnp.array([0.05])
    path = lambda t: (t[0] - jnp.sqrt(t[0] ** 2 + 4 * mu)) / 2
    ours = lambda t: kink(t, degenerate=pi.Smoothed(mu))
    curve = lambda f: jax.jit(lambda t: jax.jvp(jax.grad(f), (t,), (ONE,)))(t)
    np.testing.assert_allclose(curve(ours), curve(path), rtol=1e-6)


# The catalogue: min ½ Σ dᵢxᵢ² + qᵀx, in one shape, whose x is known as a function of q.
# Each entry: what differs from "free", and x(q); at a kink the mean of the sides.

D, Q = jnp.array([1.0, 2.0, 4.0]), jnp.array([-3.0, 1.0, -2.0])
INF = np.inf
FREE = dict(P=np.diag(D), q=Q, A=np.zeros((2, 3)), b=np.zeros(2), G=np.zeros((4, 3)),
            h=np.full(4, INF), lb=np.full(3, -INF), ub=np.full(3, INF))  # fmt: skip
first = lambda *values: np.pad(np.array(values)[:, None], [(0, 4 - len(values)), (0, 2)])
upto = lambda *values: np.array([*values, *[INF] * (4 - len(values))])
CAP = np.array([1.0, INF, INF])
capped = lambda q: jnp.minimum(-q / D, CAP)


def plane(q, on=(True, True, True)):  # x₁ + x₂ + x₃ = 1 for the unknowns that are free
    w = jnp.array(on) / D
    return w * ((1 + w @ q) / w.sum() - q)


CATALOGUE: dict[str, tuple[dict, Any]] = {
    "free": ({}, lambda q: -q / D),
    "redundant, inactive": (dict(G=first(1, 1), h=upto(1.0, 2.0)),
                            capped),
    "redundant, active": (dict(G=first(1, 3), h=upto(1.0, 3.0)), capped),
    "duplicated rows": (dict(G=first(1, 1, 1), h=upto(1.0, 1.0, 1.0)),
                        capped),
    "a row and a bound": (dict(G=first(1), h=upto(1.0), ub=CAP), capped),
    "zero rows": (dict(h=np.zeros(4), ub=CAP), capped),
    "weakly active": (dict(G=first(1), h=upto(3.0)), lambda q: (-q / D).at[0].set(
        3.0 + 0.5 * (-q[0] - 3.0))),
    "dependent equalities": (dict(A=np.array([[1.0] * 3, [2.0] * 3]), b=np.array([1.0, 2])),
                             plane),
    "equality and fixed": (dict(A=np.array([[1.0] * 3, [0.0] * 3]), b=np.array([1.0, 0]),
                                lb=np.array([-INF, 0, -INF]), ub=np.array([INF, 0, INF])),
                           lambda q: plane(q, (True, False, True))),
    "all fixed": (dict(lb=np.arange(3.0), ub=np.arange(3.0)), lambda q: jnp.arange(3.0)),
    "bounds that are no bounds": (dict(lb=np.array([-INF, -0.1, -INF]),
                                       ub=np.array([INF, INF, 0.25])),
                                  lambda q: jnp.stack([-q[0], -0.1 + 0 * q[1],
                                                       0.25 + 0 * q[2]])),
    "vertex of an LP": (dict(P=np.zeros((3, 3)), lb=np.zeros(3), ub=np.full(3, 2.0)),
                        lambda q: jnp.array([2.0, 0.0, 2.0])),
    "vertex with more rows than unknowns": (
        dict(P=np.zeros((3, 3)), lb=np.zeros(3), ub=np.full(3, 2.0), G=first(1, 2, 5),
             h=upto(2.0, 4.0, 10.0)), lambda q: jnp.array([2.0, 0.0, 2.0])),
}  # fmt: skip


def catalogued(q, rest):
    return pi.qp(rest["P"], q, *(rest[k] for k in ("A", "b", "G", "h", "lb", "ub"))).x


def test_the_degenerate_catalogue():
    given = [FREE | changed for changed, _ in CATALOGUE.values()]
    batch = {k: jnp.asarray(np.stack([g[k] for g in given])) for k in FREE}

    @jax.jit
    @jax.vmap
    def run(rest):
        x = lambda q: catalogued(q, rest)
        return x(rest["q"]), jax.jacfwd(x)(rest["q"]), jax.jacrev(x)(rest["q"])

    value, *jacobians = run(batch)
    for i, (name, (_, exact)) in enumerate(CATALOGUE.items()):
        np.testing.assert_allclose(value[i], exact(Q), atol=1e-9, err_msg=name)
        for J in jacobians:
            np.testing.assert_allclose(J[i], jax.jacfwd(exact)(Q), atol=1e-8, err_msg=name)


def test_dependent_rows_share_their_multiplier():
    # One constraint twice: x follows the mean of the right-hand sides, and each row has
    # half of the multiplier (the pseudo-inverse).
    G, q = jnp.array([[1.0, 1.0], [1.0, 1.0]]), jnp.array([-3.0, -5.0])

    def solution(q, h):
        s = pi.qp(jnp.eye(2), q, G=G, h=h)
        return (s.x, s.z[0] + s.z[1]), s

    run = jax.jit(lambda *a: jax.jacrev(solution, (0, 1), has_aux=True)(*a))
    ((x_q, x_h), (z_q, _)), s = run(q, jnp.ones(2))
    np.testing.assert_allclose(x_q, [[-0.5, 0.5], [0.5, -0.5]], atol=1e-9)
    np.testing.assert_allclose(z_q, [-0.5, -0.5], atol=1e-9)
    np.testing.assert_allclose(x_h[0], [0.25, 0.25], atol=1e-9)
    found = pi.certificate(s)
    assert (found.rows, found.rank) == (2, 1) and not found.differentiable
    assert (found.positive, found.flat) == (1, 0)


def test_vertices_and_faces_of_linear_programmes():
    vertex = lambda c, ub: pi.lp(c, lb=jnp.zeros(2), ub=ub)

    @jax.jit
    def run(c, ub):
        return vertex(c, ub), jax.jacrev(lambda *a: vertex(*a).x, (0, 1))(c, ub)

    ub = jnp.array([3.0, 4.0])
    s, (by_cost, by_bound) = run(jnp.array([-1.0, 2.0]), ub)
    np.testing.assert_allclose(s.x, [3.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(by_cost, 0.0, atol=1e-12)
    np.testing.assert_allclose(by_bound, [[1.0, 0.0], [0.0, 0.0]], atol=1e-12)
    assert pi.certificate(s).differentiable
    face, _ = run(jnp.array([0.0, 1.0]), ub)
    assert 0.1 < face.x[0] < 2.9 and pi.certificate(face).flat == 1


NONE: dict[str, Any] = dict(P=np.eye(2), q=np.ones(2), A=np.zeros((2, 2)), b=np.zeros(2),
                            G=np.zeros((2, 2)), h=np.full(2, INF), lb=np.full(2, -INF),
                            ub=np.full(2, INF))  # fmt: skip
NO_OPTIMUM = {
    "rows": dict(G=[[1.0, 0.0], [-1.0, 0.0]], h=[-1.0, -1.0]),
    "zero row": dict(G=[[0.0, 0.0], [1.0, 0.0]], h=[-1.0, 0.0]),
    "equalities": dict(A=[[1.0, 2.0], [2.0, 4.0]], b=[1.0, 3.0]),
    "bounds": dict(A=[[1.0, 1.0], [0.0, 0.0]], b=[5.0, 0.0], lb=[0.0] * 2, ub=[1.0] * 2),
    "unbounded": dict(P=[[1.0, 0.0], [0.0, 0.0]], q=[1.0, -2.0], lb=[0.0] * 2),
}


def test_programmes_without_an_optimum_carry_a_proof_and_no_derivative():
    @jax.jit
    @jax.vmap
    def run(data):
        solve = lambda q: pi.qp(**(data | {"q": q}), throw=False)
        out = lambda q: (lambda s: (s.x.sum() + s.value, s))(solve(q))
        slope, s = jax.grad(out, has_aux=True)(data["q"])
        tangent = jax.jvp(lambda q: solve(q).x, (data["q"],), (jnp.ones(2),))[1]
        return s, slope, tangent

    given = [NONE | changed for changed in NO_OPTIMUM.values()]
    data = {k: np.stack([np.asarray(g[k], float) for g in given]) for k in NONE}
    s, slope, tangent = jax.tree.map(np.asarray, run(data))
    assert np.isnan(slope).all() and np.isnan(tangent).all()
    finite = lambda v: np.where(np.isfinite(v), v, 0.0)
    *infeasible, unbounded = range(5)
    for i in infeasible:
        P, q, A, b, G, h, lb, ub = (finite(v[i]) for v in data.values())
        y, z, z_lb, z_ub = s.y[i], s.z[i], s.z_lb[i], s.z_ub[i]
        assert s.status[i] == pi.Status.infeasible and s.value[i] == np.inf
        assert b @ y + h @ z + ub @ z_ub - lb @ z_lb < -0.1 and np.isnan(s.x[i]).all()
        assert abs(A.T @ y + G.T @ z + z_ub - z_lb).max() < 1e-6
        assert min(z.min(), z_lb.min(), z_ub.min()) >= 0
    x, P, q = s.x[unbounded], data["P"][unbounded], data["q"][unbounded]
    assert s.status[unbounded] == pi.Status.unbounded and s.value[unbounded] == -np.inf
    assert q @ x < -1.0 and abs(P @ x).max() < 1e-6 and x.min() > -1e-6


def test_by_default_a_programme_without_an_optimum_raises():
    rows: Any = {k: jnp.array(v) for k, v in NO_OPTIMUM["rows"].items()}
    with pytest.raises(Exception, match="no point satisfies all constraints"):
        jax.block_until_ready(pi.qp(jnp.eye(2), jnp.ones(2), **rows).x)
