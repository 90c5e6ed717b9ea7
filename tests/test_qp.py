"""Quadratic programmes: optima, multipliers, every transform, every degenerate case."""

import functools
from typing import Any

import clarabel as _clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import pyimplicit as pi


clarabel: Any = _clarabel  # compiled, without type information


def clarabel_optimum(P, q, A, b, G, h, lb, ub):
    """The same programme by Clarabel, tight."""
    n, identity = len(q), np.eye(len(q))
    low, up, rows = np.isfinite(lb), np.isfinite(ub), np.isfinite(h)
    M = np.vstack([A, G[rows], -identity[low], identity[up]])
    r = np.concatenate([b, h[rows], -lb[low], ub[up]])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    cones = [clarabel.ZeroConeT(len(b)), clarabel.NonnegativeConeT(len(r) - len(b))]
    P, M = sp.csc_matrix(np.triu(P)), sp.csc_matrix(M.reshape(-1, n))
    return clarabel.DefaultSolver(P, q, M, r, cones, settings).solve()


def random_programme(rng, n, p, m, kind, dependent=True):
    """A feasible programme; with duplicated rows and a row of zeros if `dependent`."""
    rank = 3 if kind == "rank" else n
    L = rng.normal(size=(n, rank))
    P = 0 * np.eye(n) if kind == "lp" else L @ L.T
    q, A, G, x0 = (
        rng.normal(size=n),
        *(rng.normal(size=(k, n)) for k in (p, m)),
        rng.normal(size=n),
    )
    if dependent:
        A[-1], G[-1], G[-2] = 2 * A[0], G[0], 0.0
    if kind == "scaled":
        G, P, q = G * 10 ** rng.uniform(-3, 3, (m, 1)), 1e3 * P, 1e3 * q
    b, h = A @ x0, G @ x0 + rng.uniform(0, 1, m)
    h[-1], h[1] = (h[0] if dependent else h[-1]), np.inf
    lb, ub = x0 - rng.uniform(0, 1, n), x0 + rng.uniform(0, 1, n)
    lb[0], ub[1], lb[2], ub[2] = -np.inf, np.inf, x0[2], x0[2]
    if kind == "lp":
        lb[0], ub[1] = x0[0] - 1, x0[1] + 1
    return P, q, A, b, G, h, lb, ub


@jax.jit
def solve_all(*batch):
    return jax.vmap(lambda *a: pi.qp(*a, throw=False))(*batch)


SIZES = 7, 3, 6


def stacked(rng, kinds, dependent=True):
    made = [random_programme(rng, *SIZES, kind, dependent) for kind in kinds]
    return made, [jnp.asarray(np.stack(a)) for a in zip(*made, strict=True)]


def conditions(programme, s):
    """The largest violation of the optimality conditions, written out anew."""
    P, q, A, b, G, h, lb, ub = programme
    x, y, z, z_lb, z_ub = map(np.asarray, (s.x, s.y, s.z, s.z_lb, s.z_ub))
    times = lambda z, slack: z * np.where(np.isfinite(slack), slack, 1.0)
    return max(
        abs(P @ x + q + A.T @ y + G.T @ z - z_lb + z_ub).max() / (1 + abs(q).max()),
        abs(A @ x - b).max(),
        (G @ x - h).max(),
        (lb - x).max(),
        (x - ub).max(),
        -min(z.min(), z_lb.min(), z_ub.min()),
        *(
            abs(times(u, v)).max()
            for u, v in ((z, h - G @ x), (z_lb, x - lb), (z_ub, ub - x))
        ),
    )


def test_optima_meet_the_conditions_and_clarabel():
    kinds = ["full", "lp", "rank", "scaled"] * 6
    made, batch = stacked(np.random.default_rng(0), kinds)
    got = solve_all(*batch)
    assert (got.status == pi.Status.converged).all()
    assert got.stats["polished"].all()
    for i, programme in enumerate(made):
        one = jax.tree.map(lambda a, i=i: a[i], got)
        assert conditions(programme, one) < 1e-9, kinds[i]
        other = clarabel_optimum(*programme)
        assert abs(one.value - other.obj_val) < 1e-8 * (1 + abs(other.obj_val)), kinds[i]


def test_a_batch_does_not_change_its_samples():
    made, batch = stacked(np.random.default_rng(3), ["full", "lp", "rank", "scaled"] * 6)
    rng = np.random.default_rng(1)
    contradictory = list(random_programme(rng, *SIZES, "full"))
    contradictory[5] = contradictory[4] @ np.zeros(7) - 100.0
    together = [a.at[5].set(b) for a, b in zip(batch, contradictory, strict=True)]
    alone, mixed = solve_all(*batch), solve_all(*together)
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


# The table of transforms: min ½ xᵀQ(t)x - cᵀx subject to x₀ ≤ b, strictly active.

C = jnp.array([4.0, -3.0])
THETA = jnp.array([0.5, 0.7])  # b, t


def Q(t):
    return jnp.array([[2.0 + t**2, jnp.sin(t)], [jnp.sin(t), 3.0 + t]])


def layer(theta, scale=1.0, **how):
    b, t = theta
    s = pi.qp(scale * Q(t), -scale * C, G=jnp.array([[1.0, 0.0]]), h=b[None], **how)
    return jnp.concatenate([s.x, s.z / scale])


def exact(theta):
    b, t = theta
    M = Q(t)
    x1 = (C[1] - M[1, 0] * b) / M[1, 1]
    return jnp.stack([b, x1, C[0] - M[0, 0] * b - M[0, 1] * x1])


V = jnp.array([0.3, -1.7, 0.9])
DIRECTION = jnp.array([0.6, -2.0])
LOSS = lambda f: lambda theta: V @ f(theta) + jnp.sum(f(theta) ** 2)

TRANSFORMS = {
    "value": lambda f: f,
    "grad": lambda f: jax.grad(LOSS(f)),
    "jit(grad)": lambda f: jax.jit(jax.grad(LOSS(f))),
    "vmap(grad)": lambda f: lambda t: jax.vmap(jax.grad(LOSS(f)))(jnp.stack([t, 0.8 * t])),
    "jacrev": jax.jacrev,
    "jacfwd": jax.jacfwd,
    "jvp": lambda f: lambda t: jax.jvp(f, (t,), (DIRECTION,))[1],
    "fwd-rev": lambda f: jax.hessian(LOSS(f)),
    "rev-rev": lambda f: jax.jacrev(jax.grad(LOSS(f))),
    "scan": lambda f: (
        lambda t: jax.grad(
            lambda t: jax.lax.scan(lambda c, _: (c + 0.1 * f(c)[:2], None), t, length=3)[
                0
            ].sum()
        )(t)
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_has_its_closed_form(name):
    transform = TRANSFORMS[name]
    got, wanted = transform(layer)(THETA), transform(exact)(THETA)
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("multiplier", [1e-3, 1.0, 1e3])
def test_multipliers_far_from_one(multiplier):
    # The multiplier of the row is about 3 · multiplier; all data move.
    def loss(data, solve):
        return V @ solve(*data)

    def ours(P, q, G, h):
        s = pi.qp(P, q, G=G, h=h)
        return jnp.concatenate([s.x, s.z / multiplier])

    def closed(P, q, G, h):
        P = (P + P.T) / 2
        K = jnp.block([[P, G.T], [G, jnp.zeros((1, 1))]])
        x = jnp.linalg.solve(K, jnp.concatenate([-q, h]))
        return x.at[2].divide(multiplier)

    data = multiplier * Q(0.7), -multiplier * C, jnp.array([[1.0, 0.4]]), jnp.array([0.5])
    got, wanted = (jax.grad(loss)(data, f) for f in (ours, closed))
    assert ours(*data)[2] > 0.5
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12), got, wanted
    )


def test_the_envelope_theorem():
    # ∇_P = ½xxᵀ, ∇_q = x, ∇_A = yxᵀ, ∇_b = -y, ∇_G = zxᵀ, ∇_h = -z, ∇_lb = z_lb,
    # ∇_ub = -z_ub
    # of the optimal value: known without any adjoint.
    kinds = ["full", "lp", "scaled", "full"] * 6
    _, batch = stacked(np.random.default_rng(5), kinds, dependent=False)

    def values(*data):
        s = jax.vmap(lambda *a: pi.qp(*a, throw=False))(*data)
        return jnp.sum(s.value), s

    gradient, s = jax.grad(values, range(8), has_aux=True)(*batch)
    outer = lambda a, b: a[:, :, None] * b[:, None, :]
    wanted = (
        outer(s.x, s.x) / 2, s.x, outer(s.y, s.x), -s.y, outer(s.z, s.x), -s.z,
        s.z_lb, -s.z_ub,
    )  # fmt: skip
    for name, g, w in zip("P q A b G h lb ub".split(), gradient, wanted, strict=True):
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
    data = tuple(map(jnp.asarray, data))
    weights = jnp.asarray(rng.normal(size=3 * n + p + m))

    @jax.jit
    def loss(data):
        s = pi.qp(*data)
        return weights @ jnp.concatenate([s.x, s.y, s.z, s.z_lb, s.z_ub])

    gradient = jax.jit(jax.grad(loss))(data)
    s = pi.qp(*data)
    assert (
        pi.certificate(s).margin > 1e-3 and (s.z_lb + s.z_ub > 0).any() and (s.z > 0).any()
    )
    along = lambda t, step: loss(jax.tree.map(lambda a, d: a + t * d, data, step))
    for _ in range(3):
        step = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), data)
        at = functools.partial(along, step=step)
        eps = 1e-5
        difference = (at(eps) - at(-eps)) / (2 * eps)
        slope = sum(jnp.sum(g * d) for g, d in zip(gradient, step, strict=True))
        np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-7)


# Where the derivative is none in the usual sense.


def kink(t, **how):  # min ½(x - t)² subject to x ≤ 0: x = min(t, 0)
    return pi.qp(jnp.eye(1), -t, G=jnp.eye(1), h=jnp.zeros(1), **how).x[0]


ZERO, ONE = jnp.zeros(1), jnp.ones(1)


def test_the_readings_of_a_kink():
    slopes = lambda how: [
        jax.jvp(lambda t: kink(t, degenerate=how), (ZERO,), (v,))[1] for v in (ONE, -ONE)
    ]
    np.testing.assert_allclose(slopes("least_norm"), [0.5, -0.5], atol=1e-9)
    np.testing.assert_allclose(slopes("one_sided"), [0.0, -1.0], atol=1e-7)
    np.testing.assert_allclose(slopes("smoothed"), [0.5, -0.5], atol=1e-6)
    for how in ("least_norm", "smoothed"):
        assert (
            abs(jax.grad(lambda t, how=how: kink(t, degenerate=how))(ZERO)[0] - 0.5) < 1e-6
        )
    with pytest.raises(Exception, match="no linear map"):
        jax.grad(lambda t: kink(t, degenerate="one_sided"))(ZERO)
    away = jax.grad(lambda t: kink(t, degenerate="one_sided"))
    np.testing.assert_allclose([away(-ONE)[0], away(ONE)[0]], [1.0, 0.0], atol=1e-9)
    found = pi.certificate(pi.qp(jnp.eye(1), ZERO, G=jnp.eye(1), h=ZERO))
    assert found.margin < 1e-12 and found.weak["G"].all() and not found.differentiable


def test_the_central_path_has_its_closed_form():
    # x + z = t, -x z = μ: x = (t - √(t² + 4μ))/2.
    mu = 0.01
    how = pi.Smoothed(mu)
    path = lambda t: (t[0] - jnp.sqrt(t[0] ** 2 + 4 * mu)) / 2
    t = jnp.array([0.05])
    ours = lambda t: kink(t, degenerate=how)
    np.testing.assert_allclose(jax.grad(ours)(t), jax.grad(path)(t), rtol=1e-7)
    np.testing.assert_allclose(jax.hessian(ours)(t), jax.hessian(path)(t), rtol=1e-6)


def test_dependent_rows_share_their_multiplier():
    # One constraint twice: x follows the mean of the right-hand sides, and each row has
    # half of the multiplier (the pseudo-inverse).
    G, q = jnp.array([[1.0, 1.0], [1.0, 1.0]]), jnp.array([-3.0, -5.0])

    def solution(q):
        s = pi.qp(jnp.eye(2), q, G=G, h=jnp.ones(2))
        return s.x, s.z[0] + s.z[1]

    x_q, z_q = jax.jacrev(solution)(q)
    np.testing.assert_allclose(x_q, [[-0.5, 0.5], [0.5, -0.5]], atol=1e-9)
    np.testing.assert_allclose(z_q, [-0.5, -0.5], atol=1e-9)
    h_bar = jax.grad(lambda h: pi.qp(jnp.eye(2), q, G=G, h=h).x[0])(jnp.ones(2))
    np.testing.assert_allclose(h_bar, [0.25, 0.25], atol=1e-9)
    found = pi.certificate(pi.qp(jnp.eye(2), q, G=G, h=jnp.ones(2)))
    assert (found.rows, found.rank) == (2, 1) and not found.differentiable
    assert (found.positive, found.flat) == (1, 0)


def test_vertices_faces_and_fixed_unknowns_of_linear_programmes():
    vertex = lambda c, ub: pi.lp(c, lb=jnp.zeros(2), ub=ub)
    c, ub = jnp.array([-1.0, 2.0]), jnp.array([3.0, 4.0])
    s = vertex(c, ub)
    np.testing.assert_allclose(s.x, [3.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(jax.jacrev(lambda c: vertex(c, ub).x)(c), 0.0, atol=1e-12)
    np.testing.assert_allclose(
        jax.jacrev(lambda ub: vertex(c, ub).x)(ub), [[1.0, 0.0], [0.0, 0.0]], atol=1e-12
    )
    assert pi.certificate(s).differentiable
    face = vertex(jnp.array([0.0, 1.0]), ub)
    assert 0.1 < face.x[0] < 2.9 and pi.certificate(face).flat == 1


RAYS = {
    "rows": dict(G=[[1.0, 0.0], [-1.0, 0.0]], h=[-1.0, -1.0]),
    "zero row": dict(G=[[0.0, 0.0], [1.0, 0.0]], h=[-1.0, 0.0]),
    "equalities": dict(A=[[1.0, 2.0], [2.0, 4.0]], b=[1.0, 3.0]),
    "bounds": dict(A=[[1.0, 1.0]], b=[5.0], lb=0.0, ub=1.0),
}


@pytest.mark.parametrize("name", RAYS)
def test_infeasible_programmes_carry_a_proof(name):
    rows: Any = {k: jnp.array(v) for k, v in RAYS[name].items()}
    solve = lambda q: pi.qp(jnp.eye(2), q, **rows, throw=False)
    s = solve(jnp.ones(2))
    assert s.status == pi.Status.infeasible and s.value == jnp.inf and jnp.isnan(s.x).all()
    force = s.z_ub - s.z_lb
    gain = jnp.sum(rows.get("ub", 0.0) * s.z_ub) - jnp.sum(rows.get("lb", 0.0) * s.z_lb)
    if "A" in rows:
        force, gain = force + rows["A"].T @ s.y, gain + rows["b"] @ s.y
    if "G" in rows:
        force, gain = force + rows["G"].T @ s.z, gain + rows["h"] @ s.z
    assert (
        gain < -0.1
        and abs(force).max() < 1e-6
        and min(s.z.min(initial=0.0), s.z_lb.min()) >= 0
    )
    assert jnp.isnan(jax.grad(lambda q: solve(q).x.sum())(jnp.ones(2))).all()
    assert jnp.isnan(jax.jvp(lambda q: solve(q).value, (jnp.ones(2),), (jnp.ones(2),))[1])
    with pytest.raises(Exception, match="no point satisfies all constraints"):
        jax.block_until_ready(pi.qp(jnp.eye(2), jnp.ones(2), **rows).x)


def test_unbounded_programmes_carry_a_ray():
    P, q = jnp.diag(jnp.array([1.0, 0.0])), jnp.array([1.0, -2.0])
    s = pi.qp(P, q, lb=0.0, throw=False)
    assert s.status == pi.Status.unbounded and s.value == -jnp.inf
    assert q @ s.x < -1.0 and abs(P @ s.x).max() < 1e-6 and s.x.min() > -1e-6
    assert jnp.isnan(jax.grad(lambda q: pi.qp(P, q, lb=0.0, throw=False).x.sum())(q)).all()


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


def test_bad_values_in_traced_input_are_a_status():
    one = jax.jit(lambda P, q, ub: pi.qp(P, q, ub=ub, throw=False).status)
    identity, ones = jnp.eye(2), jnp.ones(2)
    assert one(identity, ones, ones) == pi.Status.converged
    assert one(-identity, ones, ones) == pi.Status.not_positive_definite
    assert one(identity, ones * jnp.nan, ones) == pi.Status.nonfinite
    assert one(identity, ones, -ones * jnp.inf) == pi.Status.nonfinite


def test_single_precision():
    s = pi.qp(*(jnp.asarray(a, "float32") for a in (Q(0.7), -C)), lb=jnp.float32(-0.5))
    exact = pi.qp(Q(0.7), -C, lb=-0.5)
    assert s.x.dtype == jnp.float32
    np.testing.assert_allclose(s.x, exact.x, rtol=1e-5)
    np.testing.assert_allclose(s.z_lb, exact.z_lb, rtol=1e-5, atol=1e-6)
