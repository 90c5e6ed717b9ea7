"""CVXPY layers: values as CVXPY finds them, derivatives as closed forms and differences.
(Every transform is in test_transform_table.py.)"""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi
from pyimplicit.optimize import cvxpy_defined, cvxpy_form


cp = pytest.importorskip("cvxpy")
RNG = np.random.default_rng(0)


def portfolio(n=6, k=3):
    x, F, mu, gamma = (
        cp.Variable(n),
        cp.Parameter((k, n)),
        cp.Parameter(n),
        cp.Parameter(nonneg=True),
    )
    risk = cp.sum_squares(F @ x) + gamma * cp.norm1(x - 1 / n) + 0.1 * cp.sum_squares(x)
    budget, positive = cp.sum(x) == 1, x >= 0
    problem = cp.Problem(cp.Minimize(risk - mu @ x), [budget, positive])
    values = RNG.normal(size=(k, n)), RNG.normal(size=n), 0.1
    return problem, [F, mu, gamma], [x, budget, positive], values


def second_order(n=4):
    x, A, b, t = (
        cp.Variable(n),
        cp.Parameter((n, n)),
        cp.Parameter(n),
        cp.Parameter(nonneg=True),
    )
    row = x[0] + x[1] >= t
    problem = cp.Problem(cp.Minimize(cp.norm(A @ x - b) + 0.5 * cp.sum_squares(x)), [row])
    return problem, [A, b, t], [x, row], (RNG.normal(size=(n, n)), RNG.normal(size=n), 2.0)


def entropy(n=4):
    p, c = cp.Variable(n), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(-cp.sum(cp.entr(p)) - c @ p), [cp.sum(p) == 1])
    return problem, [c], [p], (RNG.normal(size=n),)


def semidefinite(n=3):
    X, C = cp.Variable((n, n), PSD=True), cp.Parameter((n, n))
    bound = X << 2 * np.eye(n)
    near = cp.Minimize(cp.sum_squares(X - C))
    C0 = RNG.normal(size=(n, n))
    return cp.Problem(near, [bound]), [C], [X], (C0 + C0.T + np.diag([4.0, 0.0, -3.0]),)


PROBLEMS = {f.__name__: f for f in (portfolio, second_order, entropy, semidefinite)}


def flat(outputs):
    return jnp.concatenate([jnp.ravel(v) for v in outputs])


@pytest.mark.parametrize("name", PROBLEMS)
def test_values_and_duals_are_cvxpys_and_gradients_difference_quotients(name):
    problem, parameters, wanted, values = PROBLEMS[name]()
    layer = pi.cvxpy_layer(problem, parameters, wanted)
    values = tuple(jnp.asarray(v) for v in values)
    for p, v in zip(parameters, values, strict=True):
        p.value = np.asarray(v)
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    step = tuple(jnp.asarray(RNG.normal(size=np.shape(v))) for v in values)
    weights = jnp.asarray(RNG.normal(size=sum(v.size for v in wanted)))

    @jax.jit
    def run(*values):
        out, pull = jax.vjp(layer, *values)
        slope = pull(jax.flatten_util.ravel_pytree(out)[1](weights))
        return out, slope, jax.jvp(layer, values, step)[1]

    got, gradient, forward = run(*values)
    for v, ours in zip(wanted, got, strict=True):
        theirs = v.value if isinstance(v, cp.Variable) else v.dual_value
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    at = lambda t: flat(run(*(v + t * d for v, d in zip(values, step, strict=True)))[0])
    difference = (at(1e-5) - at(-1e-5)) / 2e-5
    slope = sum(np.sum(g * d) for g, d in zip(gradient, step, strict=True))
    np.testing.assert_allclose(slope, weights @ difference, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(flat(forward), difference, rtol=1e-5, atol=1e-5)


def test_entropy_is_the_softmax_in_first_and_second_order():
    problem, parameters, wanted, (c,) = entropy()
    layer = pi.cvxpy_layer(problem, parameters, wanted)
    one = lambda c: layer(c)[0]
    d = jnp.cos(jnp.arange(4.0))
    loss = lambda f: lambda c: jnp.sum(jnp.sin(3 * f(c)))
    run = lambda f: jax.jit(lambda c: {
        "batch": jax.vmap(jax.jacrev(f))(jnp.stack([c, 2 * c, -c])),
        "second": jax.jvp(jax.grad(loss(f)), (c,), (d,))[1],
    })(jnp.asarray(c))  # fmt: skip
    got, wanted = run(one), run(jax.nn.softmax)
    for name, ours in got.items():
        np.testing.assert_allclose(ours, wanted[name], atol=1e-6, err_msg=name)


def test_a_geometric_programme():
    # max x y z with x + y + z ≤ w (all positive) and a x ≤ y: y = a x, 2 (1 + a) x = … .
    x, y, w, a = (cp.Variable(pos=True), cp.Variable(pos=True), cp.Parameter(pos=True),
                  cp.Parameter(pos=True))  # fmt: skip
    problem = cp.Problem(cp.Minimize(1 / (x * y**2)), [x + a * y <= w])
    layer = pi.cvxpy_layer(problem, [w, a], [x, y], gp=True)
    exact = lambda w, a: jnp.stack([w / 3, 2 * w / (3 * a)])
    ours = lambda w, a: jnp.stack(layer(w, a))
    point = jnp.array(5.0), jnp.array(0.7)
    run = lambda f: jax.jit(lambda *p: (f(*p), jax.jacrev(f, (0, 1))(*p)))(*point)
    (value, slopes), (expected, wanted) = run(ours), run(exact)
    np.testing.assert_allclose(value, expected, rtol=1e-7)
    np.testing.assert_allclose(slopes, wanted, rtol=1e-6, atol=1e-9)


def test_rows_that_are_bounds_keep_their_multipliers():
    # min ‖x - c‖²,  2x ≤ u,  -3x ≤ l,  and x₀ bounded once more, by 5.
    x, c, u, low = cp.Variable(3), cp.Parameter(3), cp.Parameter(3), cp.Parameter(3)
    rows = [2 * x <= u, -3 * x <= low, x[0] <= 5]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), rows)
    layer = pi.cvxpy_layer(problem, [c, u, low], [x, *rows], throw=False)

    def exact(c, u, low):
        x = jnp.clip(c, -low / 3, u / 2)
        return x, jnp.maximum(c - x, 0), 2 / 3 * jnp.maximum(x - c, 0), jnp.zeros(())

    point = jnp.array([4.0, -3.0, 1.0]), jnp.full(3, 5.0), jnp.full(3, 6.0)
    run = lambda f: jax.jit(lambda *p: (f(*p), jax.jacrev(f, (0, 1, 2))(*p)))(*point)
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
    jax.tree.map(near, run(layer), run(exact))
    assert jnp.isnan(layer(point[0], point[1], jnp.full(3, -9.0))[0]).all()


def test_what_is_no_layer_is_refused():
    x, p, q = cp.Variable(2), cp.Parameter(2), cp.Parameter()
    not_dpp = cp.Problem(cp.Minimize(cp.sum_squares(x - q * p)), [])
    fine = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])
    with pytest.raises(ValueError, match="DPP"):
        pi.cvxpy_layer(not_dpp, [p, q], [x])
    with pytest.raises(ValueError, match="each once"):
        pi.cvxpy_layer(fine, [], [x])
    with pytest.raises(ValueError, match="variables or constraints of the problem"):
        pi.cvxpy_layer(fine, [p], [cp.Variable(2)])
    with pytest.raises(TypeError, match=r"cvxpy\.Problem"):
        pi.cvxpy_layer(x, [p], [x])
    layer = pi.cvxpy_layer(fine, [p], [x])
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        layer(jnp.ones(3))
    with pytest.raises(TypeError, match="1 values"):
        layer()


@pytest.mark.parametrize("path", ["qp", "cone"])
def test_bad_values_are_errors_or_where_traced_statuses(path):
    # With g < 0 the first has an indefinite P, and the second still has an optimum, which
    # is none of the problem's.
    x, c, g = cp.Variable(2), cp.Parameter(2), cp.Parameter(nonneg=True)
    if path == "qp":
        cost, rows = g * cp.sum_squares(x) - c @ x, [x <= 2, x >= -2]
    else:
        cost, rows = cp.sum_squares(x - c), [g * cp.norm(x) <= 1]
    problem = cp.Problem(cp.Minimize(cost), rows)
    layer = pi.cvxpy_layer(problem, [c, g], [x, *rows], throw=False)
    one = jnp.ones(2)
    bad = {
        "nonnegative": (one, -1.0),
        "free of NaN": (one.at[1].set(jnp.nan), 1.0),
        "finite": (one.at[0].set(jnp.inf), 1.0),
    }
    for said, values in bad.items():
        with pytest.raises(ValueError, match=said) as info:
            layer(*values)
        assert "Got " in str(info.value)
    with pytest.raises(TypeError, match="real numbers"):
        layer(1j * one, 1.0)
    samples = [(one, 1.0), *bad.values()]
    c, g = (jnp.stack([jnp.asarray(s[k]) for s in samples]) for k in (0, 1))

    @jax.jit
    @jax.vmap
    def run(c, g):
        return layer(c, g), jax.grad(lambda *v: layer(*v)[0].sum(), (0, 1))(c, g)

    for leaf in jax.tree.leaves(run(c, g)):
        assert jnp.isfinite(leaf[0]).all() and jnp.isnan(leaf[1:]).all()


def test_infeasible_problems_raise_or_are_nan():
    x, b = cp.Variable(2), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [cp.sum(x) == b, x >= 1, x <= 2])
    with pytest.raises(Exception, match="no point satisfies all constraints"):
        jax.block_until_ready(pi.cvxpy_layer(problem, [b], [x])(7.0))
    quiet = pi.cvxpy_layer(problem, [b], [x], throw=False)
    assert jnp.isnan(jax.grad(lambda b: quiet(b)[0].sum())(7.0))


def test_what_is_put_in_changes_neither_values_nor_duals_nor_derivatives(monkeypatch):
    # Residuals of squares and of a Huber loss are CVXPY's own unknowns; r is the user's.
    x, r, F, f = cp.Variable(5), cp.Variable(3), cp.Parameter((3, 5)), cp.Parameter(3)
    rows = [cp.sum(x) == 1, x >= 0, r == F @ x + 1]
    cost = cp.sum_squares(F @ x - f) + cp.sum_squares(r) + cp.huber(x[0] - f[1])
    problem = cp.Problem(cp.Minimize(cost + 0.1 * cp.sum_squares(x)), rows)
    values = jnp.asarray(RNG.normal(size=(3, 5))), jnp.asarray(RNG.normal(size=3))

    def run():
        layer = pi.cvxpy_layer(problem, [F, f], [x, r, *rows])
        ours = lambda *v: flat(layer(*v))

        @jax.jit
        def every(*v):
            out, pull = jax.vjp(ours, *v)
            return out, jax.jvp(ours, v, v)[1], pull(jnp.cos(jnp.arange(1.0 * out.size)))

        return every(*values)

    sizes = []

    def counted(*args):
        found = cvxpy_defined.defined(*args)
        sizes.append((found.gone.size, found.kept.size))
        return found

    monkeypatch.setattr(cvxpy_form, "defined", counted)
    got = run()
    monkeypatch.setattr(cvxpy_form, "defined", lambda *args: None)
    wanted = run()
    assert sizes == [(4, 10)]
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
    jax.tree.map(near, got, wanted)


def test_many_residuals_leave_a_small_dense_programme():
    # 700 residuals of 2 unknowns: minus the mean gradient is the multiplier of x₀ = c.
    F0, f0 = RNG.normal(size=(700, 2)), RNG.normal(size=700)
    x, c, f = cp.Variable(2), cp.Parameter(), cp.Parameter(700)
    fixed = x[0] == c
    problem = cp.Problem(cp.Minimize(cp.sum_squares(F0 @ x - f) / 2), [fixed])
    layer = pi.cvxpy_layer(problem, [c, f], [x, fixed])

    def exact(c, f):
        x = jnp.stack([c, F0[:, 1] @ (f - c * F0[:, 0]) / (F0[:, 1] @ F0[:, 1])])
        return x, -F0[:, 0] @ (F0 @ x - f)

    known = jnp.asarray(f0)  # closed over
    run = lambda f: jax.jit(lambda c: (f(c, known), jax.jacrev(f, (0, 1))(c, known)))(0.7)
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    jax.tree.map(near, run(layer), run(exact))
