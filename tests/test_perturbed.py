"""Perturbed optimisers: jaxopt's estimates, the softmax they converge to, second order."""

import functools
import inspect
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp

import pyimplicit as pi
from pyimplicit import perturbed as pt


X = jnp.array([0.6, -0.3, 0.9])
NUMBER: Any = 3
KEY = jax.random.key(4)
SIGMA = 0.7
W = jnp.array([1.0, -2.0, 0.5])
argmax = lambda x: jax.nn.one_hot(jnp.argmax(x), x.size, dtype=x.dtype)
smooth = functools.partial(pt.make_perturbed_argmax, argmax, sigma=SIGMA)
largest = functools.partial(pt.make_perturbed_max, argmax, sigma=SIGMA)


@pytest.mark.parametrize("noise", ["Gumbel", "Normal"])
@pytest.mark.parametrize("control", [False, True])
def test_the_same_estimates_as_jaxopt(noise, control):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pytest.importorskip("jaxopt.perturbations")
    options = dict(num_samples=50, sigma=SIGMA, control_variate=control)
    functions = {"argmax": argmax, "fun": lambda x: jnp.max(jnp.sin(x))}
    for name, fn in functions.items():
        made = [
            getattr(m, f"make_perturbed_{name}")(fn, noise=getattr(m, noise)(), **options)
            for m in (pt, theirs)
        ]
        jvp = lambda f: jax.jit(lambda x: jax.jvp(lambda x: f(x, KEY), (x,), (W,)))(X)
        for ours, peer in zip(*map(jvp, made), strict=True):
            np.testing.assert_allclose(ours, peer, atol=1e-13)
    for name in ("argmax", "fun", "max"):
        parameters = [
            [(p.name, type(p.default).__name__) for p in
             inspect.signature(getattr(m, f"make_perturbed_{name}")).parameters.values()]
            for m in (pt, theirs)
        ]  # fmt: skip
        assert parameters[0] == parameters[1]


def test_gumbel_is_the_softmax():
    """Value, Jacobian and second derivative, within four standard errors or so."""
    f = smooth(40_000, control_variate=True)
    exact = lambda x: jax.nn.softmax(x / SIGMA)
    run = jax.jit(lambda x: (
        f(x, KEY), jax.jacfwd(f)(x, KEY), jax.jacrev(f)(x, KEY),
        jax.hessian(lambda x: W @ f(x, KEY))(x)))  # fmt: skip
    value, forward, reverse, hessian = run(X)
    np.testing.assert_allclose(forward, reverse, atol=1e-12)
    np.testing.assert_allclose(value, exact(X), atol=0.01)
    np.testing.assert_allclose(reverse, jax.jacfwd(exact)(X), atol=0.04)
    np.testing.assert_allclose(hessian, jax.hessian(lambda x: W @ exact(x))(X), atol=0.3)


def test_max_has_the_argmax_as_gradient():
    F, f = largest(20_000), smooth(20_000)
    run = jax.jit(lambda x: (
        F(x, KEY), jax.grad(F)(x, KEY), jax.jacfwd(F)(x, KEY), f(x, KEY),
        jax.hessian(F)(x, KEY), jax.jacrev(jax.grad(F))(x, KEY),
        jax.jacrev(f)(x, KEY)))  # fmt: skip
    value, reverse, forward, best, hessian, twice, jacobian = run(X)
    np.testing.assert_allclose(reverse, best, atol=1e-12)
    np.testing.assert_allclose(forward, best, atol=1e-12)
    exact = lambda x: SIGMA * (logsumexp(x / SIGMA) + np.euler_gamma)
    np.testing.assert_allclose(value, exact(X), atol=0.03)
    np.testing.assert_allclose(hessian, (jacobian + jacobian.T) / 2, atol=1e-12)
    np.testing.assert_allclose(twice, hessian, atol=1e-12)
    np.testing.assert_allclose(hessian, jax.hessian(exact)(X), atol=0.08)


def test_control_variate_lowers_the_variance():
    x = jnp.array([4.0, 0.0, 0.0])  # the noise seldom changes the answer
    slope = lambda control: jax.vmap(
        lambda key: jax.grad(lambda x: W @ smooth(20, control_variate=control)(x, key))(x)
    )(jax.random.split(KEY, 200))
    plain, controlled = (np.var(slope(c), 0).sum() for c in (False, True))
    assert controlled < plain / 3


def test_fenchel_young_loss_trains():
    loss = pi.loss.make_fenchel_young_loss(largest(500))
    y = jax.nn.one_hot(1, 3)
    step = jax.jit(lambda x, key: x - 0.5 * jax.grad(loss, 1)(y, x, key))
    x = X
    for key in jax.random.split(KEY, 40):
        x = step(x, key)
    assert jnp.argmax(x) == 1 and smooth(2000)(x, KEY)[1] > 0.8


def test_host_solver_and_batches():
    """An assignment problem, solved on the host, as the argmax; keys and inputs batched."""
    solve = lambda scores: pi.transport.assignment(-scores)
    f = pt.make_perturbed_argmax(solve, num_samples=30, sigma=0.5, noise=pt.Normal())
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 3)))
    keys = jax.random.split(KEY, 4)
    loss = lambda s, key: jnp.sum(jnp.cos(f(s, key)) * scores[0])
    run = jax.jit(jax.vmap(lambda s, key: (f(s, key), jax.grad(loss)(s, key))))
    P, slope = run(scores, keys)
    np.testing.assert_allclose(P.sum(1), 1, atol=1e-12)
    other = run(scores.at[1:].set(0), keys)
    np.testing.assert_array_equal(P[0], other[0][0])
    np.testing.assert_array_equal(slope[0], other[1][0])
    assert np.abs(slope).max() > 0.01


def test_shapes_of_functions():
    f = pt.make_perturbed_fun(lambda x: jnp.outer(x, x), num_samples=10, noise=pt.Normal())
    assert f(X, KEY).shape == (3, 3)
    assert jax.jit(jax.jacrev(f))(X, KEY).shape == (3, 3, 3)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: pt.make_perturbed_argmax(NUMBER), TypeError, "takes a function"),
        (lambda: pt.make_perturbed_max(argmax, 0), ValueError, "positive integer"),
        (lambda: pt.make_perturbed_fun(argmax, sigma=0.0), ValueError, "must be positive"),
        (lambda: pt.make_perturbed_fun(argmax, noise="normal"), TypeError, "log_prob"),
        (lambda: pt.make_perturbed_argmax(jnp.argmax)(X, KEY), ValueError, "shape of x"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message) as info:
        call()
    assert "\nGot" in str(info.value)
