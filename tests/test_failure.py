"""Failure is a value, raising is the default, and no gradient of a non-root is a number."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

import pyimplicit as pi
from pyimplicit.engine.failure import fail_unless_zero


Error = jax.errors.JaxRuntimeError
W3 = jnp.array([[1.0, 2.0], [-1.5, 2.5]])  # spectral radius above 1

# name: (params -> Solution, status, what the message must name)
FAILURES = {
    "no_root": (
        lambda **o: lambda p: pi.root(lambda z, p: z * z + p, 0.7, p, max_steps=30, **o),
        pi.Status.max_steps_reached, "no solution"),
    "singular_at_the_start": (
        lambda **o: lambda p: pi.root(lambda z, p: z * z - p, 0.0, p, **o),
        pi.Status.singular, "singular"),
    "singular_jacobian": (
        lambda **o: lambda p: pi.root(
            lambda z, p: jnp.full(6, jnp.sum(z)) - p, jnp.ones(6), p, **o),
        pi.Status.singular, "a Jacobian at an iterate"),
    "expansive": (
        lambda **o: lambda p: pi.fixed_point(
            lambda z, p: W3 @ z + p, jnp.ones(2), p, solver=pi.Picard(), max_steps=40, **o),
        pi.Status.max_steps_reached, "max_steps"),
    "expansive_long": (
        lambda **o: lambda p: pi.fixed_point(
            lambda z, p: W3 @ z + p, jnp.ones(2), p,
            solver=pi.Picard(), max_steps=5000, **o),
        pi.Status.nonfinite, "ran away"),
    "nan_from_the_function": (
        lambda **o: lambda p: pi.fixed_point(lambda z, p: jnp.sqrt(z - 5) + p, 1.0, p, **o),
        pi.Status.nonfinite, "jax_debug_nans"),
    "no_minimum": (
        lambda **o: lambda p: pi.minimize(
            lambda z, p: jnp.exp(z) * p, 0.0, p, max_steps=20, **o),
        pi.Status.max_steps_reached, "max_steps"),
    "least_squares": (
        lambda **o: lambda p: pi.least_squares(
            lambda z, p: jnp.exp(-z) * p, 0.0, p, max_steps=4, **o),
        pi.Status.max_steps_reached, "max_steps"),
    "a_minimum_is_no_root": (
        lambda **o: lambda p: pi.root(
            lambda z, p: z * z + p, 0.7, p,
            solver=optx.BFGS(1e-8, 1e-8), max_steps=50, **o),
        pi.Status.max_steps_reached, "no solution"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_status_message_and_gradient(name):
    make, status, words = FAILURES[name]
    quiet, loud = make(throw=False), make()
    p = jnp.array(1.5)
    found = jax.jit(quiet)(p)
    assert pi.Status(int(found.status)) == status
    if status == pi.Status.max_steps_reached:
        assert np.isfinite(found.value).all()  # the last iterate
    for call in (loud, jax.jit(loud)):
        with pytest.raises(Error, match=words):
            np.asarray(call(p).value)
    total = lambda f: lambda p: jnp.sum(f(p).value)
    assert np.isnan(jax.jit(jax.grad(total(quiet)))(p))
    assert np.isnan(jax.jit(jax.jacfwd(total(quiet)))(p))
    with pytest.raises(Error):
        np.asarray(jax.jit(jax.grad(total(loud)))(p))


def test_the_message_says_which_sample_it_was():
    root = lambda p: pi.root(lambda z, p: z * z - p, 1.0, p, max_steps=40).value
    p = jnp.array([4.0, 9.0, -1.0, 16.0])
    with pytest.raises(
        Error, match=r"pyimplicit.root: .*\(sample 2 of the batch; 1 failed\)"
    ):
        np.asarray(jax.vmap(root)(p))
    with pytest.raises(Error, match=r"sample 1, 0 of the batch"):
        np.asarray(jax.jit(jax.vmap(jax.vmap(root)))(p.reshape(2, 2)))


def test_one_bad_sample_does_not_touch_its_mates():
    solve = lambda p: pi.root(lambda z, p: z**3 + z - p, 0.0, p, max_steps=60, throw=False)
    p = jnp.array([10.0, jnp.nan, 1e6, 2.0])
    together = jax.jit(jax.vmap(solve))(p)
    np.testing.assert_array_equal(together.status, [0, pi.Status.nonfinite, 0, 0])
    steps = np.asarray(together.stats["iterations"])
    assert steps[2] > steps[3]  # each stops by itself
    for i in (0, 2, 3):
        np.testing.assert_allclose(together.value[i], solve(p[i]).value, rtol=1e-15)
    g = jax.jit(jax.vmap(jax.grad(lambda p: solve(p).value)))(p)
    z = together.value
    np.testing.assert_array_equal(np.isnan(g), [False, True, False, False])
    good = np.array([0, 2, 3])
    np.testing.assert_allclose(g[good], 1 / (3 * z[good] ** 2 + 1), rtol=1e-12)


@pytest.mark.parametrize(
    "adjoint", [pi.Implicit(), pi.Phantom(3), pi.OneStep(), pi.Reversible(0.5)], ids=str
)
def test_what_a_loss_masks_out_does_not_poison_it(adjoint):
    """A failed sample with zero weight gives zero; used, it gives NaN."""
    options: dict[str, Any] = (
        {} if isinstance(adjoint, pi.Reversible) else {"solver": pi.Picard()}
    )
    solve = lambda p: pi.fixed_point(
        lambda z, p: p * z + p * p, 0.0, p, adjoint=adjoint, throw=False, **options
    )
    p = jnp.array([0.5, 3.0, 0.2])  # the second one diverges

    def loss(p, masked):
        found = jax.vmap(solve)(p)
        good = found.status == 0 if masked else jnp.ones(3, bool)
        return jnp.sum(jnp.where(good, found.value, 0.0))

    g = jax.jit(jax.grad(loss), static_argnums=1)(p, True)
    np.testing.assert_array_equal(np.isfinite(g), [True, True, True])
    assert g[1] == 0.0 and g[0] != 0.0
    assert np.isnan(jax.grad(loss)(p, False)[1])


@pytest.mark.parametrize("power", [2, 3])
def test_a_multiple_root_has_a_value_but_no_derivative(power):
    """z^k = p at p = 0: the Jacobian vanishes at the root."""
    solve = lambda p, **o: pi.root(
        lambda z, p: z**power - p, 1.0, p, max_steps=400, atol=1e-4, rtol=1e-4, **o
    )
    exact = lambda p, **o: pi.root(lambda z, p: z**power - p, 0.0, p, solver=_Found(), **o)
    assert solve(0.0).status == pi.Status.converged
    with pytest.raises(Error, match="singular or nearly so"):
        jax.grad(lambda p: exact(p).value)(0.0)
    with pytest.raises(Error, match="singular or nearly so"):
        jax.jvp(lambda p: exact(p).value, (0.0,), (1.0,))
    assert np.isnan(jax.grad(lambda p: exact(p, throw=False).value)(0.0))


class _Found(pi.Picard, optx.AbstractRootFinder):
    """A root finder that is there already."""

    def step(self, fn, y, args, options, state, tags):
        _, state, aux = super().step(fn, y, args, options, state, tags)
        return y, type(state)(jnp.zeros_like(state.size)), aux


def test_a_singular_hessian_has_no_derivative():
    f = lambda p, **o: pi.minimize(
        lambda z, p: (z[0] - z[1] - p) ** 2, jnp.ones(2), p, **o
    ).value  # fmt: skip
    value = f(3.0)
    np.testing.assert_allclose(value[0] - value[1], 3.0, rtol=1e-6)
    with pytest.raises(Error, match="does not determine the answer"):
        jax.grad(lambda p: f(p)[0])(3.0)
    # What the condition does determine is a solve of a singular system all the same.
    assert np.isnan(jax.grad(lambda p: f(p, throw=False)[0])(3.0))


def test_nan_in_params_is_named():
    with pytest.raises(Error, match="NaN or infinity came up"):
        np.asarray(pi.root(lambda z, p: z - p, 0.0, jnp.nan).value)


def test_raising_costs_nothing_where_nothing_failed():
    """The guard is a branch: no callback is in the way of a solve that succeeds."""
    x = jnp.arange(3.0)
    kept = fail_unless_zero({"x": x}, jnp.array(0), ("", "broken"))
    np.testing.assert_array_equal(kept["x"], x)
    with pytest.raises(Error, match="broken"):
        np.asarray(fail_unless_zero(x, jnp.array(1), ("", "broken")))
    t = jax.jvp(lambda x: fail_unless_zero(x, jnp.array(0), ("", "no")), (x,), (2 * x,))[1]
    np.testing.assert_array_equal(t, 2 * x)
    g = jax.grad(lambda x: jnp.sum(fail_unless_zero(x, jnp.array(0), ("", "no")) ** 2))(x)
    np.testing.assert_array_equal(g, 2 * x)


NOT_SQUARE = lambda z, p: jnp.concatenate([z, z]) - p
NONSENSE: Any = object()
BAD = {
    "not_square": (lambda: pi.root(NOT_SQUARE, jnp.ones(2), jnp.ones(4)),
                   ValueError, "as many equations as unknowns"),
    "no_map": (lambda: pi.fixed_point(lambda z, p: z[:1], jnp.ones(2)),
               ValueError, "must look like z0"),
    "no_scalar": (lambda: pi.minimize(lambda z, p: z, jnp.ones(2)),
                  ValueError, "real scalar"),
    "no_unknowns": (lambda: pi.root(lambda z, p: z, jnp.ones(0)),
                    ValueError, "at least one number"),
    "root_solver": (lambda: pi.root(lambda z, p: z, 1.0, solver=pi.Anderson()),
                    TypeError, "must be a root finder"),
    "fixed_point_solver": (lambda: pi.fixed_point(lambda z, p: z, 1.0, solver=NONSENSE),
                           TypeError, "pi.Anderson()"),
    "minimize_solver": (lambda: pi.minimize(lambda z, p: z * z, 1.0, solver=NONSENSE),
                        TypeError, "must be a minimiser"),
    "least_squares_solver": (
        lambda: pi.least_squares(lambda z, p: z, 1.0, solver=NONSENSE),
        TypeError, "least-squares solver"),
    "max_steps": (lambda: pi.root(lambda z, p: z, 1.0, max_steps=0),
                  ValueError, "positive integer"),
    "rtol": (lambda: pi.root(lambda z, p: z, 1.0, rtol=-1.0), ValueError, "negative"),
    "jacobian": (lambda: pi.root(lambda z, p: z, 1.0, jacobian=NONSENSE),
                 TypeError, "pi.Dense"),
    "pattern": (lambda: pi.root(lambda z, p: z, jnp.ones(3),
                                jacobian=pi.SparsePattern([0, 1], [0, 1], (2, 2))),
                ValueError, r"shape \(3, 3\)"),
    "jacobian_shape": (lambda: pi.root(lambda z, p: z, jnp.ones(3),
                                       jacobian=lambda z, p: jnp.eye(2)),
                       ValueError, "must be 3 x 3"),
    "jacobian_type": (lambda: pi.root(lambda z, p: z, jnp.ones(3),
                                      jacobian=lambda z, p: "identity"),
                      TypeError, "array or a lineax operator"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, words = BAD[name]
    with pytest.raises(error, match=words) as caught:
        call()
    text = str(caught.value)
    assert "Got" in text and text.count("\n") == 2  # the rule, what was got, the remedy
