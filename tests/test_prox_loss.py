"""Proximal operators, losses and objectives: what defines them, closed forms, jaxopt."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp

import pyimplicit as pi
from pyimplicit import loss as ls, objective as ob, prox as px


RNG = np.random.default_rng(5)
X = {"u": jnp.array([1.7, -0.3, 0.05]), "v": jnp.array([[-2.2, 0.9]])}
WEIGHTS = {"u": jnp.array([0.2, 0.5, 0.4]), "v": jnp.array([[1.0, 30.0]])}
SCALE = jnp.array(0.7)


def flat(tree):
    return np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree)])


x0, w0 = flat(X), flat(WEIGHTS)
box = pi.projection.projection_box
l1 = lambda y, w: np.sum(w * np.abs(y))
inside = lambda y, low=0.0, high=np.inf: (
    0.0 if (low <= y).all() and (y <= high).all() else np.inf
)

# name: operator, its strengths, and g(y) with them.
PROX = {
    "none": (px.prox_none, None, lambda y: 0.0),
    "lasso": (px.prox_lasso, 0.6, lambda y: l1(y, 0.6)),
    "lasso_weighted": (px.prox_lasso, WEIGHTS, lambda y: l1(y, w0)),
    "non_negative_lasso": (
        px.prox_non_negative_lasso, 0.6, lambda y: l1(y, 0.6) + inside(y)),
    "elastic_net": (
        px.prox_elastic_net, (0.6, 3.0), lambda y: 0.6 * (l1(y, 1) + 1.5 * y @ y)),
    "elastic_net_weighted": (
        px.prox_elastic_net, (WEIGHTS, 3.0), lambda y: l1(y, w0) + 1.5 * w0 @ y**2),
    "group_lasso": (px.prox_group_lasso, 0.8, lambda y: 0.8 * np.linalg.norm(y)),
    "group_lasso_zero": (px.prox_group_lasso, 80.0, lambda y: 80 * np.linalg.norm(y)),
    "ridge": (px.prox_ridge, 2.5, lambda y: 1.25 * y @ y),
    "non_negative_ridge": (
        px.prox_non_negative_ridge, 2.5, lambda y: 1.25 * y @ y + inside(y)),
    "from_projection": (
        px.make_prox_from_projection(box), (-0.2, 1.0), lambda y: inside(y, -0.2, 1.0)),
}  # fmt: skip


@pytest.fixture(params=PROX)
def operator(request):
    prox, strength, g = PROX[request.param]
    strength = jax.tree.map(jnp.asarray, strength)
    return prox, strength, g


def test_prox_is_the_minimum(operator):
    """½‖y - x‖² + s g(y) is strongly convex: it grows by ½‖d‖² at least along d."""
    prox, strength, g = operator
    energy = lambda y: 0.5 * np.sum((y - x0) ** 2) + float(SCALE) * g(y)
    p = flat(prox(X, strength, SCALE))
    for d in RNG.normal(size=(200, 5)) * 10.0 ** -RNG.integers(0, 5, size=(200, 1)):
        assert energy(p + d) - energy(p) >= 0.5 * d @ d * (1 - 1e-6) - 1e-13


def test_prox_derivatives(operator):
    prox, strength, _ = operator
    v, unravel = ravel_pytree((X, strength, SCALE))
    onto = lambda v: ravel_pytree(prox(*unravel(v)))[0]
    weights = np.cos(np.arange(5.0))
    slope = jax.grad(lambda v: weights @ jnp.sin(onto(v)))
    outputs = lambda v: (onto(v), jax.jacfwd(onto)(v), jax.jacrev(onto)(v), slope(v),
                         jax.jacfwd(slope)(v), jax.jacrev(slope)(v))  # fmt: skip
    step = 1e-6
    shifts = np.concatenate([np.zeros((1, v.size)), step * np.eye(v.size)])
    ahead, behind = jax.jit(lambda s: jax.vmap(outputs)(v + s)), np.asarray
    plus, minus = ([behind(a) for a in ahead(s)] for s in (shifts, -shifts))
    for value, forward, reverse in ((0, 1, 2), (3, 4, 5)):
        quotient = (plus[value] - minus[value])[1:].T / (2 * step)
        np.testing.assert_allclose(plus[forward][0], plus[reverse][0], atol=1e-12)
        np.testing.assert_allclose(plus[forward][0], quotient, atol=1e-7)


def test_prox_at_kinks():
    zero = jnp.zeros(3)
    np.testing.assert_array_equal(px.prox_group_lasso(zero), 0)
    np.testing.assert_array_equal(jax.jacrev(px.prox_group_lasso)(zero), 0)
    np.testing.assert_array_equal(jax.jacfwd(px.prox_group_lasso)(zero, 0.0), 0)
    np.testing.assert_array_equal(jax.jacfwd(px.prox_lasso)(jnp.array([1.0])), 0)
    np.testing.assert_array_equal(px.prox_lasso(jnp.array([3, -3]), 1), [2.0, -2.0])
    for prox in (
        px.prox_lasso,
        px.prox_non_negative_lasso,
        px.prox_group_lasso,
        px.prox_ridge,
    ):
        assert jnp.isnan(prox(jnp.array([jnp.nan, 1.0]))).any()
    with pytest.raises(TypeError, match=r"takes a function\.\nGot 3"):
        px.make_prox_from_projection(3)  # pyright: ignore[reportArgumentType]


def jaxopt(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(f"jaxopt.{module}")


def test_prox_against_jaxopt():
    theirs = jaxopt("prox")
    names = [n for n in vars(theirs) if "prox_" in n and callable(getattr(theirs, n))]
    assert len(names) == 8
    for name in names:
        signatures = [inspect.signature(getattr(m, name)) for m in (px, theirs)]
        kept = [[(p.name, p.default) for p in s.parameters.values()] for s in signatures]
        assert kept[0] == kept[1]
    cases = [("lasso", 0.6), ("lasso", WEIGHTS), ("non_negative_lasso", 0.6),
             ("ridge", 2.0), ("elastic_net", (0.6, 3.0)), ("group_lasso", 0.8),
             ("non_negative_ridge", 2.0), ("lasso", None), ("elastic_net", None),
             ("none", None)]  # fmt: skip
    for name, strength in cases:
        ours, peer = (getattr(m, f"prox_{name}")(X, strength, 0.7) for m in (px, theirs))
        np.testing.assert_allclose(flat(ours), flat(peer), atol=1e-15)


SCORES = jnp.array([0.4, -1.2, 2.3, 1.9])
GRID = np.array([-30.0, -1.4, -1.0, -0.3, 0.0, 0.8, 1.0, 2.2, 800.0])


def test_losses_against_jaxopt():
    theirs = jaxopt("loss")
    names = [n for n in vars(ls) if n.endswith("_loss") or n.startswith("sparse_")]
    assert len(names) == 12
    for name in names:
        ours, peer = getattr(ls, name), getattr(theirs, name)
        assert list(inspect.signature(ours).parameters) == list(
            inspect.signature(peer).parameters
        )
        if name.startswith("multiclass"):
            batch = RNG.normal(size=(20, 4)) * 3
            labels = RNG.integers(0, 4, size=20)
            args = [(labels, batch)]
        elif name.startswith("binary"):
            args = [(np.full(GRID.size, label), GRID) for label in (0, 1)]
        elif name.startswith("sparse"):
            args = [(GRID,)]
        elif name == "huber_loss":
            args = [(GRID, GRID[::-1].copy())]
        else:
            continue
        for a in args:
            value = lambda f, a=a: jax.jit(jax.vmap(f))(*a)
            np.testing.assert_allclose(value(ours), value(peer), rtol=1e-13, atol=1e-13)


def test_loss_gradients():
    softmax = jax.nn.softmax(SCORES)
    e = jax.nn.one_hot(1, 4)
    cases = {
        ls.multiclass_logistic_loss: softmax - e,
        ls.multiclass_sparsemax_loss: pi.sparsemax(SCORES) - e,
        ls.multiclass_hinge_loss: jax.nn.one_hot(2, 4) - e,
        ls.multiclass_perceptron_loss: jax.nn.one_hot(2, 4) - e,
    }
    for loss, gradient in cases.items():
        both = jax.jit(
            lambda s, loss=loss: (jax.grad(loss, 1)(1, s), jax.jacfwd(loss, 1)(1, s))
        )
        for g in both(SCORES):
            np.testing.assert_allclose(g, gradient, atol=1e-14)
    hessian = jax.hessian(lambda s: ls.multiclass_sparsemax_loss(1, s))(SCORES)
    m = jnp.array([0.0, 0, 1, 1])
    np.testing.assert_allclose(hessian, jnp.diag(m) - jnp.outer(m, m) / 2, atol=1e-14)
    slope = jax.vmap(jax.grad(ls.sparse_plus))(GRID)
    np.testing.assert_allclose(slope, ls.sparse_sigmoid(GRID), atol=1e-15)
    assert np.isfinite(
        jax.vmap(jax.grad(lambda r: ls.huber_loss(0.0, r)))(GRID * 1e200)
    ).all()
    forbidden = SCORES.at[0].set(-jnp.inf)
    assert np.isfinite(jax.grad(ls.multiclass_logistic_loss, 1)(1, forbidden)).all()
    assert np.isfinite(ls.multiclass_sparsemax_loss(1, forbidden))


def test_fenchel_young():
    loss = ls.make_fenchel_young_loss(logsumexp)
    y = jax.nn.one_hot(2, 4)
    np.testing.assert_allclose(loss(y, SCORES), ls.multiclass_logistic_loss(2, SCORES))
    gradient = jax.grad(loss, 1)(y, SCORES)
    np.testing.assert_allclose(gradient, jax.nn.softmax(SCORES) - y, atol=1e-15)
    with pytest.raises(TypeError, match="takes a function"):
        ls.make_fenchel_young_loss(1.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"(?s)\(n,\).*Got shape \(2, 2\).*vmap"):
        ls.multiclass_logistic_loss(0, jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="must be positive"):
        ls.huber_loss(0.0, 1.0, -1.0)


A = jnp.asarray(RNG.normal(size=(9, 3)))
CLASSES, LABELS = (
    jnp.asarray(RNG.integers(0, 4, size=9)),
    jnp.asarray(RNG.integers(0, 2, size=9)),
)
W, B = jnp.asarray(RNG.normal(size=(3, 4))), jnp.asarray(RNG.normal(size=4))
TARGETS = jnp.asarray(RNG.normal(size=(9, 4)))
ONE_HOT = jax.nn.one_hot(CLASSES, 4)
OBJECTIVES = {
    "least_squares": (W, (A, TARGETS)),
    "ridge_regression": (W, 0.3, (A, TARGETS)),
    "binary_logreg": (W[:, 0], (A, LABELS)),
    "multiclass_logreg": (W, (A, CLASSES)),
    "multiclass_logreg_with_intercept": ((W, B), (A, CLASSES)),
    "l2_multiclass_logreg": (W, 0.3, (A, CLASSES)),
    "l2_multiclass_logreg_with_intercept": ((W, B), 0.3, (A, CLASSES)),
    "multiclass_linear_svm_dual": (jax.nn.softmax(TARGETS), 0.3, (A, ONE_HOT)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_against_jaxopt(name):
    theirs = getattr(jaxopt("objective"), name)
    args = OBJECTIVES[name]
    both = [jax.jit(jax.value_and_grad(f))(*args) for f in (getattr(ob, name), theirs)]
    (value, slope), (expected, expected_slope) = both
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    np.testing.assert_allclose(flat(slope), flat(expected_slope), atol=1e-13)


def test_objectives_serve_block_coordinate_descent():
    solver = pi.BlockCoordinateDescent(prox=px.prox_none, objective=ob.least_squares)
    data = (A, TARGETS[:, 0])
    z = pi.minimize(
        ob.least_squares, jnp.zeros(3), data, solver=solver, rtol=1e-9, atol=1e-9
    )
    expected = np.linalg.lstsq(np.asarray(A), np.asarray(TARGETS[:, 0]))[0]
    np.testing.assert_allclose(z.value, expected, atol=1e-7)
