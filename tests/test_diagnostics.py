"""The Taylor test finds right derivatives right, wrong ones wrong, and says which."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi


X = {"a": jnp.arange(1.0, 4.0), "b": 2.0, "name": "not a number", "n": 3}


def smooth(x):
    return jnp.sum(jnp.sin(x["a"])) * x["b"] ** 3 + x["n"]


def with_derivative(value, tangent):
    """A function that claims a derivative."""
    fn = jax.custom_jvp(value)
    fn.defjvp(lambda primals, tangents: (value(*primals), tangent(*primals, *tangents)))
    return fn


def cubic(x):
    return jnp.sum(x**3)


def test_rates_of_a_smooth_function_of_a_pytree():
    report = pi.taylor_test(smooth, X)
    np.testing.assert_allclose(report.rates, [1, 2, 3], atol=0.05)
    assert report.passed
    assert report.remainders.shape == (3, report.steps.size)


def test_the_direction_is_used():
    along_b = jax.tree.map(lambda a: 0 * a if isinstance(a, jax.Array) else a, X)
    report = pi.taylor_test(smooth, X, along_b | {"b": 1.0})
    wanted = [abs(smooth(X | {"b": 2 + t}) - smooth(X)) for t in report.steps]
    np.testing.assert_allclose(report.remainders[0], wanted, atol=1e-12)


@pytest.mark.parametrize(
    "fn, exact_from",
    [(lambda x: x @ x, 2), (lambda x: 3 * jnp.sum(x), 1), (lambda x: 1.0 + 0 * x[0], 0)],
    ids=["quadratic", "linear", "constant"],
)
def test_an_exact_expansion_has_an_infinite_rate(fn, exact_from):
    report = pi.taylor_test(fn, jnp.arange(1.0, 4.0))
    assert all(map(math.isinf, report.rates[exact_from:]))
    assert not any(map(math.isinf, report.rates[:exact_from]))
    assert report.passed and "exact" in str(report)


@pytest.mark.parametrize("error", [0.0, 1e-6])
def test_a_quadratic_whose_values_are_noisy_is_exact(error):
    """Round-off of solves, here 1e-11 that changes from step to step; not so if the
    Hessian is wrong by a millionth."""
    value = lambda x: x @ x * (1 + 1e-11 * jnp.sin(1e9 * x[0]))
    slope = with_derivative(lambda x: 2 * x, lambda x, t: 2 * (1 + error) * t)
    noisy = with_derivative(value, lambda x, t: slope(x) @ t)
    report = pi.taylor_test(noisy, jnp.arange(1.0, 4.0))
    assert report.passed == (error == 0) == math.isinf(report.rates[2])


def test_a_value_and_its_gradient_from_one_function():
    """The same numbers as by `jax.grad`, and a wrong gradient is seen."""
    value, x = lambda x: jnp.sum(jnp.sin(x["a"]) * x["b"]), {"a": jnp.ones(3), "b": 2.0}
    fn = jax.jit(jax.value_and_grad(value))
    report = pi.taylor_test(fn, x, order=1, with_gradient=True)
    wanted = pi.taylor_test(value, x, order=1)
    np.testing.assert_allclose(report.rates, wanted.rates, rtol=1e-6)
    wrong = lambda x: (fn(x)[0], jax.tree.map(lambda g: 1.1 * g, fn(x)[1]))
    assert not pi.taylor_test(wrong, x, order=1, with_gradient=True).passed


@pytest.mark.parametrize("error", [1e-3, -1.0, 10.0])
def test_a_wrong_gradient_fails(error):
    wrong = with_derivative(cubic, lambda x, t: (3 + error) * x**2 @ t)
    report = pi.taylor_test(wrong, jnp.arange(1.0, 4.0))
    assert report.rates[0] == pytest.approx(1, abs=0.05)
    assert report.rates[1] < 1.5 and not report.passed
    assert "FAILED" in str(report)


def test_a_wrong_hessian_alone_fails_alone():
    half = with_derivative(jnp.square, lambda x, t: jax.lax.stop_gradient(2 * x) * t)
    report = pi.taylor_test(lambda x: jnp.sum(jnp.sin(half(x))), jnp.arange(1.0, 4.0))
    np.testing.assert_allclose(report.rates, [1, 2, 2], atol=0.1)
    assert not report.passed


def test_round_off_does_not_spoil_the_rates():
    large = lambda x: 1e6 + jnp.sum(jnp.sin(x) * x)
    np.testing.assert_allclose(
        pi.taylor_test(large, jnp.arange(1.0, 4.0)).rates, [1, 2, 3], atol=0.1
    )
    single = lambda x: jnp.sum(jnp.sin(x))
    report = pi.taylor_test(single, jnp.arange(3, dtype=jnp.float32))
    np.testing.assert_allclose(report.rates, [1, 2, 3], atol=0.2)


def test_a_solve_has_all_three_rates(engine):
    pattern = pi.SparsePattern([0, 0, 1, 1, 2], [0, 1, 0, 1, 2], (3, 3))
    b = jnp.array([1.0, 2.0, -1.0])
    fn = lambda v: jnp.sum(pi.sparse_solve(pattern, jnp.exp(v), b) ** 3)
    report = pi.taylor_test(fn, jnp.array([1.0, 0.1, -0.3, 0.9, 0.2]))
    np.testing.assert_allclose(report.rates, [1, 2, 3], atol=0.1)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: pi.taylor_test(jnp.sin, jnp.ones(3)), ValueError, "scalar value"),
        (
            lambda: pi.taylor_test(
                jax.value_and_grad(jnp.sum), jnp.ones(3), with_gradient=True
            ),
            ValueError,
            "order=1",
        ),
        (lambda: pi.taylor_test(jnp.sum, jnp.arange(3)), TypeError, "floating-point"),
        (lambda: pi.taylor_test(jnp.log, jnp.array(-1.0)), ValueError, "finite"),
        (
            lambda: pi.taylor_test(jnp.sum, jnp.ones(3), jnp.ones(2)),
            ValueError,
            "same structure",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "Got " in str(caught.value) and str(caught.value).count("\n") == 2
