"""Optimal transport: marginals, duality, limits, derivatives against finite differences
and against the unrolled iteration, batches, degenerate and bad input."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize as so
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp

import pyimplicit as pi
from pyimplicit import transport as tr
from pyimplicit.optimize.transport import host as transport_host


# What compiled code raises: JAX makes the one or the other of it.
FAILURE = (jax.errors.JaxRuntimeError, ValueError)
RNG = np.random.default_rng(11)
C = jnp.asarray(RNG.uniform(size=(3, 4)) * 3)
A = jnp.array([0.23, 0.46, 0.31])
B = jnp.array([0.12, 0.39, 0.21, 0.28])
EPS = jnp.array(0.3)
WRONG: Any = "entropic"
balanced = lambda b, a: b * a.sum() / b.sum()
plan = jax.jit(lambda C, a, b, eps: tr.sinkhorn(C, a, b, epsilon=eps))


def entropic(P, C, a, b, eps):
    Q = np.outer(a, b)
    P = np.maximum(P, 1e-300)
    return np.sum(P * C) + eps * np.sum(P * np.log(P / Q) - P + Q)


def unrolled(C, a, b, eps, steps=400):
    """Sinkhorn's iteration, differentiated through."""

    def sweep(f, _):
        g = -eps * logsumexp((f[:, None] - C) / eps, axis=0, b=a[:, None])
        return -eps * logsumexp((g - C) / eps, axis=1, b=b), None

    f, _ = jax.lax.scan(sweep, jnp.zeros_like(a), length=steps)
    g = -eps * logsumexp((f[:, None] - C) / eps, axis=0, b=a[:, None])
    return a[:, None] * jnp.exp((f[:, None] + g - C) / eps) * b


@pytest.mark.parametrize("eps", [10.0, 0.3, 0.02, 1e-3])
def test_sinkhorn_solves_the_problem(eps):
    t = plan(C, A, B, eps)
    assert t.status == pi.Status.converged and t.stats["residual"] <= 1e-10
    np.testing.assert_allclose(t.plan.sum(1), A, atol=1e-9)
    np.testing.assert_allclose(t.plan.sum(0), B, atol=1e-9)
    np.testing.assert_allclose(t.value, entropic(t.plan, C, A, B, eps), rtol=1e-8)
    np.testing.assert_allclose(A @ t.f, B @ t.g, atol=1e-12)  # the gauge
    dual = A @ t.f + B @ t.g  # no duality gap: P is optimal
    np.testing.assert_allclose(dual, t.value, rtol=1e-8)


def test_sinkhorn_limits():
    """ε → ∞: the product of the marginals. ε → 0: the exact plan and its cost."""
    wide = plan(C, A, B, 1e6)
    np.testing.assert_allclose(wide.plan, jnp.outer(A, B), atol=1e-6)
    exact = tr.exact(C, A, B)
    sharp = plan(C, A, B, 1e-3)
    np.testing.assert_allclose(sharp.plan, exact.plan, atol=1e-6)
    np.testing.assert_allclose(sharp.value, exact.value, atol=5e-3)
    shift = sharp.f - exact.f
    np.testing.assert_allclose(shift, shift[0], atol=1e-2)  # potentials, up to a constant
    costs = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)))
    run = lambda newton: tr.sinkhorn(costs, epsilon=1e-2, newton=newton, throw=False)
    found = run(True)
    assert found.status == 0 and found.stats["residual"] < 1e-10
    np.testing.assert_allclose(4 * found.plan, tr.assignment(costs), atol=1e-3)
    assert run(False).status == pi.Status.max_steps_reached  # sweeps alone take for ever


def test_sinkhorn_derivatives():
    v, unravel = ravel_pytree((C, A, B, EPS))

    def onto(v):
        C, a, b, eps = unravel(v)
        t = tr.sinkhorn(C, a, balanced(b, a), epsilon=eps)
        return jnp.concatenate([t.plan.ravel(), t.f, t.g, t.value[None]])

    run = jax.jit(lambda v: (onto(v), jax.jacfwd(onto)(v), jax.jacrev(onto)(v)))
    _, forward, reverse = run(v)
    np.testing.assert_allclose(forward, reverse, atol=1e-9)
    step = 1e-4
    quotient = [
        (run(v + step * e)[0] - run(v - step * e)[0]) / (2 * step) for e in np.eye(v.size)
    ]
    np.testing.assert_allclose(reverse, np.stack(quotient, 1), atol=1e-6)

    def by_unrolling(v):
        C, a, b, eps = unravel(v)
        return unrolled(C, a, balanced(b, a), eps).ravel()

    np.testing.assert_allclose(
        reverse[: C.size], jax.jit(jax.jacfwd(by_unrolling))(v), atol=1e-9
    )
    # Envelope: in the cost P; in ε KL(P | a bᵀ).
    t = plan(C, A, B, EPS)
    np.testing.assert_allclose(reverse[-1, : C.size], t.plan.ravel(), atol=1e-9)
    relative = (t.value - jnp.sum(t.plan * C)) / EPS
    np.testing.assert_allclose(reverse[-1, -1], relative, atol=1e-8)


def test_sinkhorn_second_order():
    weights = jnp.asarray(RNG.normal(size=C.shape))
    ours = lambda C, eps: jnp.sum(weights * tr.sinkhorn(C, A, B, epsilon=eps).plan)
    theirs = lambda C, eps: jnp.sum(weights * unrolled(C, A, B, eps))
    expected = jax.jit(jax.hessian(theirs))(C, EPS)
    rev = jax.jit(lambda C: (jax.hessian(ours)(C, EPS), jax.jacrev(jax.grad(ours))(C, EPS)))
    for hessian in rev(C):
        np.testing.assert_allclose(hessian, expected, atol=1e-7)


def test_sinkhorn_batch_stops_by_sample():
    costs = jnp.stack([C, 100 * C, C[::-1]])
    loss = lambda C: (lambda t: (jnp.sum(jnp.cos(t.plan)), t.stats["iterations"]))(
        tr.sinkhorn(C, A, B, epsilon=EPS)
    )
    run = jax.jit(jax.vmap(jax.value_and_grad(loss, has_aux=True)))
    (value, steps), slope = run(costs)
    (other, other_steps), other_slope = run(costs.at[1].set(C))
    assert steps[1] > steps[0] == other_steps[0]
    np.testing.assert_array_equal([value[0], value[2]], [other[0], other[2]])
    np.testing.assert_array_equal(slope[0], other_slope[0])


def test_sinkhorn_edges():
    empty = A.at[1].set(0.0)  # a row without mass: P, f and derivatives stay finite
    b = B * empty.sum() / B.sum()
    t = plan(C, empty, b, EPS)
    assert t.status == 0 and jnp.isfinite(t.f).all()
    np.testing.assert_array_equal(t.plan[1], 0)
    row = lambda a: tr.sinkhorn(C, a, balanced(B, a), epsilon=EPS).plan[1]
    slope = jax.jit(jax.jacrev(row))(empty)[:, 1]
    little = empty.at[1].set(1e-7)
    expected = plan(C, little, balanced(B, little), EPS).plan[1] / 1e-7
    np.testing.assert_allclose(slope, expected, rtol=1e-5)
    forbidden = plan(C.at[0, 1].set(jnp.inf), A, B, EPS)
    assert forbidden.status == 0 and forbidden.plan[0, 1] == 0
    np.testing.assert_allclose(forbidden.plan.sum(0), B, atol=1e-9)
    tall = tr.sinkhorn(C.T, B, A, epsilon=EPS)
    flat = plan(C, A, B, EPS)
    np.testing.assert_allclose(tall.plan, flat.plan.T, atol=1e-10)
    np.testing.assert_allclose(tall.f, flat.g, atol=1e-9)
    warm = tr.sinkhorn(C, A, B, epsilon=EPS, f0=flat.f)
    assert warm.stats["iterations"] <= 1
    single = tr.sinkhorn(C.astype(jnp.float32), epsilon=0.3)
    assert single.plan.dtype == jnp.float32 and single.status == 0


def test_sinkhorn_that_does_not_converge():
    with pytest.raises(FAILURE, match=r"sinkhorn: the largest number"):
        tr.sinkhorn(C, A, B, epsilon=EPS, max_steps=2).plan.block_until_ready()
    short = lambda C: tr.sinkhorn(C, A, B, epsilon=EPS, max_steps=2, throw=False)
    assert short(C).status == pi.Status.max_steps_reached
    assert jnp.isnan(jax.grad(lambda C: short(C).value)(C)).all()


def test_exact_is_the_linear_programme():
    t = jax.jit(tr.exact)(C, A, B)
    np.testing.assert_allclose(t.plan.sum(1), A, atol=1e-12)
    np.testing.assert_allclose(t.plan.sum(0), B, atol=1e-12)
    assert jnp.sum(t.plan > 0) <= 6 and jnp.all(t.plan >= 0)
    slack = C - t.f[:, None] - t.g
    assert jnp.all(slack > -1e-12)  # dual feasible and complementary: optimal
    np.testing.assert_allclose(jnp.sum(slack * t.plan), 0, atol=1e-12)
    np.testing.assert_allclose(A @ t.f + B @ t.g, t.value, rtol=1e-12)
    assert t.stats["margin"] > 1e-3 and t.stats["dual_margin"] > 1e-3


@pytest.mark.parametrize("kind", ["plane", "ties", "random"])
def test_exact_prices_an_assignment_where_masses_are_equal(kind, monkeypatch):
    """Of an optimal assignment, a basis that is dual feasible: the simplex method's value,
    and no negative reduced cost."""
    rng, n = np.random.default_rng(3), 12
    x, y = rng.normal(size=(2, n, 2))
    plane = ((x[:, None] - y) ** 2).sum(-1)
    random = rng.normal(size=(n, n))
    cost = {"plane": plane, "ties": np.round(random), "random": random}[kind]
    assert transport_host._matching(cost) is not None
    t = tr.exact(cost)
    assert t.status == 0 and t.stats["dual_margin"] > -1e-12
    np.testing.assert_allclose(n * t.plan, tr.assignment(cost), atol=1e-12)
    monkeypatch.setattr(transport_host, "_matching", lambda C: None)
    np.testing.assert_allclose(t.value, tr.exact(cost).value, rtol=1e-12)


def test_exact_finds_the_pairs_it_needs(monkeypatch):
    """Large problems start from few pairs; here from too few, which prices then mend."""
    rng = np.random.default_rng(5)
    cost, a = rng.normal(size=(13, 17)), rng.dirichlet(np.ones(13))
    b = rng.dirichlet(np.ones(17))
    whole = transport_host._simplex(cost, a, b)
    for name, value in (("WHOLE", 0), ("NEAR", 1), ("LEVELS", 3)):
        monkeypatch.setattr(transport_host, name, value)
    few = transport_host._candidates(cost, a, b)
    assert few.size < 100 and not set(whole[0]) <= set(few)
    cells, status = transport_host._simplex(cost, a, b)
    assert status == pi.Status.converged
    np.testing.assert_array_equal(cells, whole[0])


def test_exact_derivatives():
    v, unravel = ravel_pytree((C, A, B))

    def onto(v):
        C, a, b = unravel(v)
        t = tr.exact(C, a, balanced(b, a))
        return jnp.concatenate([t.plan.ravel(), t.f, t.g, t.value[None]])

    weights = np.cos(np.arange(20.0))
    slope = jax.grad(lambda v: weights @ onto(v) ** 2)
    run = jax.jit(lambda v: (onto(v), jax.jacfwd(onto)(v), jax.jacrev(onto)(v), slope(v),
                             jax.jacfwd(slope)(v), jax.jacrev(slope)(v)))  # fmt: skip
    value, forward, reverse, _, hessian, twice = run(v)
    np.testing.assert_allclose(forward, reverse, atol=1e-12)
    np.testing.assert_allclose(hessian, twice, atol=1e-12)
    step = 1e-5
    ends = [[run(v + s * step * e) for s in (1, -1)] for e in np.eye(v.size)]
    quotient = lambda k: np.stack([(p[k] - m[k]) / (2 * step) for p, m in ends], 1)
    np.testing.assert_allclose(reverse, quotient(0), atol=1e-8)
    np.testing.assert_allclose(hessian, quotient(3), atol=1e-7)
    np.testing.assert_allclose(reverse[-1, : C.size], value[: C.size], atol=1e-12)


def test_exact_edges():
    """A degenerate vertex, forbidden pairs that cut the problem in parts, and no plan."""
    parts = jnp.array([[5.0, jnp.inf, jnp.inf], [jnp.inf, 1, 2], [jnp.inf, 1, 3]])
    none = jnp.full((3, 3), jnp.inf).at[:, 0].set(1.0)
    run = jax.jit(jax.vmap(lambda C: tr.exact(C, throw=False)))
    t = run(jnp.stack([C[:, :3], none, parts]))
    assert t.status.tolist() == [0, pi.Status.singular, 0]
    assert set(np.unique(np.round(3 * t.plan[0], 12))) == {0.0, 1.0}
    assert t.stats["margin"][0] < 1e-12
    np.testing.assert_allclose(t.value[2], (5 + 1 + 2) / 3, rtol=1e-12)
    assert jnp.isnan(t.plan[1]).all() and jnp.isfinite(t.f[2]).all()
    slope = jax.jit(jax.grad(lambda C: tr.exact(C, throw=False).value))
    assert jnp.isnan(slope(none)[:, 0]).all() and jnp.isfinite(slope(C[:, :3])).all()
    other = run(jnp.stack([C[:, :3], C[:, 1:], C[:, :3]]))
    np.testing.assert_array_equal(t.plan[0], other.plan[0])
    with pytest.raises(FAILURE, match="forbidden pair"):
        tr.exact(none).plan.block_until_ready()


def test_assignment_against_all_permutations():
    costs = jnp.asarray(RNG.normal(size=(5, 3, 4)))
    P = jax.jit(jax.vmap(tr.assignment))(costs)
    for c, p in zip(np.asarray(costs), np.asarray(P), strict=True):
        best = min(sum(c[range(3), q]) for q in itertools.permutations(range(4), 3))
        np.testing.assert_allclose(np.sum(c * p), best, rtol=1e-12)
        assert (p.sum(1) == 1).all() and (p.sum(0) <= 1).all()
    total = lambda c: jnp.sum(c * tr.assignment(c))
    np.testing.assert_allclose(jax.grad(total)(costs[0]), P[0])
    assert so.linear_sum_assignment(costs[0])[1].tolist() == P[0].argmax(1).tolist()


@pytest.mark.parametrize(
    "smoothing",
    [tr.Entropic(0.5), tr.Perturbed(jax.random.key(0), 50, 0.5)],
    ids=["ε", "σ"],
)
def test_assignment_with_smooth_derivatives(smoothing):
    """The value is the permutation, the derivative that of the smooth plan."""
    w = jnp.asarray(RNG.normal(size=C.shape))
    ours = lambda C: jnp.sum(w * tr.assignment(C, smoothing))
    smooth = lambda C: jnp.sum(w * smoothing.plan(C))
    run = jax.jit(lambda C: (jax.grad(ours)(C), jax.jacfwd(ours)(C), jax.grad(smooth)(C)))
    reverse, forward, expected = run(C)
    np.testing.assert_allclose(reverse, expected, atol=1e-10)
    np.testing.assert_allclose(forward, expected, atol=1e-10)
    assert jnp.abs(expected).max() > 1e-2
    np.testing.assert_array_equal(tr.assignment(C, smoothing), tr.assignment(C))
    plan = smoothing.plan(C)
    np.testing.assert_allclose(plan.sum(1), 1, atol=1e-8)
    assert jnp.all(plan.sum(0) <= 1 + 1e-8)


def test_kl_projections_are_sinkhorn():
    P = pi.projection.kl_projection_transport(-C, (A, B))
    np.testing.assert_allclose(P, plan(C, A, B, 1.0).plan, atol=1e-12)
    Q = pi.projection.kl_projection_birkhoff(-C[:, :3])
    np.testing.assert_allclose(Q.sum(0), 1, atol=1e-9)
    ratio = jnp.log(Q) + C[:, :3]  # diagonal scalings of exp(-C): rank one in the logarithm
    middle = ratio - ratio.mean(0) - ratio.mean(1, keepdims=True) + ratio.mean()
    np.testing.assert_allclose(middle, 0, atol=1e-9)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: tr.sinkhorn(C, A, B, epsilon=0.0), ValueError, "must be positive"),
        (
            lambda: tr.sinkhorn(C, B, A, epsilon=1.0),
            ValueError,
            r"must be \(3,\) and \(4,\)",
        ),
        (lambda: tr.sinkhorn(A, epsilon=1.0), ValueError, r"shape \(n, m\)"),
        (
            lambda: tr.sinkhorn(C, epsilon=1.0, f0=B),
            ValueError,
            "one potential for each row",
        ),
        (lambda: tr.sinkhorn(C, epsilon=1.0, max_steps=0), ValueError, "positive integer"),
        (lambda: tr.assignment(C.T), ValueError, "as many columns as rows"),
        (lambda: tr.assignment(C, WRONG), TypeError, r"Entropic\(epsilon\)"),
        (lambda: tr.Entropic(-1.0), ValueError, "must be positive"),
        (lambda: tr.sinkhorn(C, A, 2 * B, epsilon=1.0), FAILURE, "one mass"),
        (lambda: tr.exact(C, -A, B), FAILURE, "not negative"),
        (lambda: tr.exact(C.at[0, 0].set(jnp.nan)), FAILURE, "holds NaN"),
        (lambda: tr.assignment(C.at[0, 0].set(jnp.nan)), FAILURE, "NaN or infinity"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message) as info:
        jax.block_until_ready(call())
    if error is not FAILURE:
        rule, got, remedy = str(info.value).split("\n")
        assert rule and got.startswith("Got ") and remedy
