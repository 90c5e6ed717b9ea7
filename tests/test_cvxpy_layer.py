"""CVXPY layers: values as CVXPY finds them, derivatives as closed forms and differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi


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
    got = layer(*values)
    for v, ours in zip(wanted, got, strict=True):
        theirs = v.value if isinstance(v, cp.Variable) else v.dual_value
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    run = jax.jit(lambda *values: flat(layer(*values)))
    weights = jnp.asarray(RNG.normal(size=run(*values).size))
    gradient = jax.grad(lambda *v: weights @ run(*v), range(len(values)))(*values)
    step = [jnp.asarray(RNG.normal(size=np.shape(v))) for v in values]
    at = lambda t: run(*(v + t * d for v, d in zip(values, step, strict=True)))
    difference = (at(1e-5) - at(-1e-5)) / 2e-5
    slope = sum(jnp.sum(g * d) for g, d in zip(gradient, step, strict=True))
    np.testing.assert_allclose(slope, weights @ difference, rtol=1e-5, atol=1e-6)
    forward = jax.jvp(run, values, tuple(step))[1]
    np.testing.assert_allclose(forward, difference, rtol=1e-5, atol=1e-5)


def test_entropy_is_the_softmax_in_every_order():
    problem, parameters, wanted, (c,) = entropy()
    layer = pi.cvxpy_layer(problem, parameters, wanted)
    one = lambda c: layer(c)[0]
    c = jnp.asarray(c)
    loss = lambda f: lambda c: jnp.sum(jnp.sin(3 * f(c)))
    for transform in (jax.jacrev, jax.jacfwd):
        np.testing.assert_allclose(
            transform(one)(c), transform(jax.nn.softmax)(c), atol=1e-7
        )
    got, wanted = (jax.hessian(loss(f))(c) for f in (one, jax.nn.softmax))
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    batch = jnp.stack([c, 2 * c, -c])
    np.testing.assert_allclose(
        jax.jit(jax.vmap(one))(batch), jax.vmap(jax.nn.softmax)(batch), atol=1e-7
    )


def test_the_table_of_transforms():
    # min ½ xᵀQ(t)x - cᵀx with x₀ ≤ b, as a sum of squares: Q = LᵀL.
    x, L, c, b = cp.Variable(2), cp.Parameter((2, 2)), cp.Parameter(2), cp.Parameter()
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(L @ x) - c @ x), [x[0] <= b])
    layer = pi.cvxpy_layer(problem, [L, c, b], [x])
    factor = lambda t: jnp.array([[1.5, t], [0.3, 1.0 + t**2]])
    data = jnp.array([40.0, -3.0])

    def ours(theta):
        return layer(factor(theta[1]), data, theta[0])[0]

    def exact(theta):
        Q = factor(theta[1]).T @ factor(theta[1])
        return jnp.stack([theta[0], (data[1] - Q[1, 0] * theta[0]) / Q[1, 1]])

    theta = jnp.array([0.5, 0.7])
    loss = lambda f: lambda t: jnp.sum(jnp.sin(f(t)))
    transforms = {
        "grad": lambda f: jax.grad(loss(f)),
        "jit(grad)": lambda f: jax.jit(jax.grad(loss(f))),
        "vmap(grad)": lambda f: (
            lambda t: jax.vmap(jax.grad(loss(f)))(jnp.stack([t, 0.9 * t]))
        ),
        "jacrev": jax.jacrev,
        "jacfwd": jax.jacfwd,
        "fwd-rev": lambda f: jax.hessian(loss(f)),
        "rev-rev": lambda f: jax.jacrev(jax.grad(loss(f))),
    }
    for name, transform in transforms.items():
        got, wanted = transform(ours)(theta), transform(exact)(theta)
        np.testing.assert_allclose(got, wanted, rtol=1e-7, atol=1e-9, err_msg=name)


def test_a_geometric_programme():
    # max x y z with x + y + z ≤ w (all positive) and a x ≤ y: y = a x, 2 (1 + a) x = … .
    x, y, w, a = (cp.Variable(pos=True), cp.Variable(pos=True), cp.Parameter(pos=True),
                  cp.Parameter(pos=True))  # fmt: skip
    problem = cp.Problem(cp.Minimize(1 / (x * y**2)), [x + a * y <= w])
    layer = pi.cvxpy_layer(problem, [w, a], [x, y], gp=True)
    exact = lambda w, a: jnp.stack([w / 3, 2 * w / (3 * a)])
    ours = lambda w, a: jnp.stack(layer(w, a))
    point = jnp.array(5.0), jnp.array(0.7)
    np.testing.assert_allclose(ours(*point), exact(*point), rtol=1e-7)
    for k in (0, 1):
        got, wanted = (jax.jacrev(f, k)(*point) for f in (ours, exact))
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


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


def test_infeasible_problems_raise_or_are_nan():
    x, b = cp.Variable(2), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [cp.sum(x) == b, x >= 1, x <= 2])
    with pytest.raises(Exception, match="no point satisfies all constraints"):
        jax.block_until_ready(pi.cvxpy_layer(problem, [b], [x])(7.0))
    quiet = pi.cvxpy_layer(problem, [b], [x], throw=False)
    assert jnp.isnan(jax.grad(lambda b: quiet(b)[0].sum())(7.0))
