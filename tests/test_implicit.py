"""The derivative rule, on every entry point, through every transform, against closed
forms. The forward solves raise when they are differentiated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import pyimplicit as pi

from .layers import Layer, layers


LAYERS = layers()


@pytest.fixture(params=LAYERS, ids=repr)
def layer(request) -> Layer:
    return request.param


def flat(fn, params):
    """`fn` from a vector to a real vector, and the vector of `params`."""
    p, unravel = ravel_pytree(params)

    def onto(p):
        leaves = jax.tree.leaves(fn(unravel(p)))
        real = lambda a: [a.real, a.imag] if jnp.iscomplexobj(a) else [a]
        return jnp.concatenate([jnp.ravel(r) for a in leaves for r in real(a)])

    return onto, p


def pair(layer):
    ours, p = flat(layer.value, layer.params)
    exact, _ = flat(layer.exact, layer.params)
    weights = jnp.cos(jnp.arange(jax.eval_shape(exact, p).size) + 1.0)
    scalar = lambda fn: lambda p: weights @ jnp.sin(fn(p) / 3)
    return ours, exact, scalar, p


def close(a, b, rtol=2e-6):
    a, b = np.asarray(a), np.asarray(b)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(b).max(), 1e-30))


def test_value_and_status(layer):
    ours, exact, _, p = pair(layer)
    close(ours(p), jax.jit(exact)(p), 1e-8)
    if not layer.decorated:
        solution = layer.solve(layer.params)
        assert solution.status == pi.Status.converged
        assert jnp.asarray(solution.status).dtype == jnp.int32
        assert solution.stats["residual"] < 1e-6
        assert solution.stats["iterations"] > 0


def test_first_order(layer):
    ours, exact, _, p = pair(layer)
    t = jnp.sin(jnp.arange(p.size) + 0.5)
    w = jnp.cos(jnp.arange(jax.eval_shape(exact, p).size) * 2.0)

    @jax.jit
    def derivatives(p):
        value, t_value = jax.jvp(ours, (p,), (t,))
        (ct,) = jax.vjp(ours, p)[1](w)
        found = jax.jacfwd(ours)(p), jax.jacrev(ours)(p), value, t_value, ct
        return found, exact(p), jax.jacfwd(exact)(p)

    (forward, reverse, value, t_value, ct), known, J = derivatives(p)
    close(forward, J)
    close(reverse, J)
    close(value, known, 1e-8)
    close(t_value, J @ t)
    np.testing.assert_allclose(w @ t_value, ct @ t, rtol=1e-9, atol=1e-9)


def _forward(f, p, t):
    return jax.jvp(f, (p,), (t,))[1]


SECOND = {  # H t, and tᵀ H t where only numbers are left
    "forward over reverse": lambda f, p, t: _forward(jax.grad(f), p, t),
    "reverse over reverse": lambda f, p, t: jax.grad(lambda p: jax.grad(f)(p) @ t)(p),
    "reverse over forward": lambda f, p, t: jax.grad(lambda p: _forward(f, p, t))(p),
    "forward over forward": lambda f, p, t: _forward(lambda p: _forward(f, p, t), p, t),
}


def test_second_order(layer):
    ours, exact, scalar, p = pair(layer)
    t = 0.3 * jnp.sin(jnp.arange(p.size) + 0.5) * (1.0 + jnp.abs(p))
    Ht = jax.jit(lambda p: SECOND["forward over reverse"](scalar(exact), p, t))(p)
    program = jax.jit(lambda p: {k: h(scalar(ours), p, t) for k, h in SECOND.items()})
    for name, found in program(p).items():
        close(found, t @ Ht if name == "forward over forward" else Ht, 1e-5)
    if layer.name in ("root_lotka_volterra", "fixed_point_tanh"):
        close(jax.jit(jax.hessian(scalar(ours)))(p) @ t, Ht, 1e-5)


def test_transforms(layer):
    ours, exact, scalar, p = pair(layer)
    grad = jax.grad(scalar(ours))
    expected = jax.jit(jax.grad(scalar(exact)))(p)
    if layer.name in ("root_sqrt", "fixed_point_linear", "linear_solve"):
        close(grad(p), expected)  # not compiled; the rest is in one program

    def body(p, _):
        value, g = jax.value_and_grad(scalar(ours))(p)
        return p - 1e-4 * g, value

    def reference(p, _):
        value, g = jax.value_and_grad(scalar(exact))(p)
        return p - 1e-4 * g, value

    @jax.jit
    def together(batch):
        p = batch[0]
        last, _ = jax.lax.scan(body, p, length=2)
        return jax.vmap(grad)(batch), last, jax.grad(jax.checkpoint(scalar(ours)))(p)

    batch = jnp.stack([p, 1.02 * p, 0.97 * p])
    batched, last, kept = together(batch)
    alone = jax.jit(grad)
    close(batched, jnp.stack([alone(p) for p in batch]), 1e-9)
    close(last, jax.jit(lambda p: jax.lax.scan(reference, p, length=2)[0])(p))
    close(kept, expected)


def test_the_forward_solve_is_never_differentiated(layer):
    if layer.decorated or layer.name.startswith("minimize_lasso"):
        pytest.skip("no Unroll for it in this test")
    with pytest.raises(RuntimeError, match="forward solve cannot be autodiff"):
        jax.jacfwd(
            flat(functools.partial(layer.value, adjoint=pi.Unroll()), layer.params)[0]
        )(ravel_pytree(layer.params)[0])


def test_a_third_derivative():
    f = lambda p: pi.root(lambda z, p: z**3 - p, 1.0, p).value
    third = jax.grad(jax.grad(jax.grad(f)))(8.0)
    np.testing.assert_allclose(third, 10 / 27 * 8.0 ** (-8 / 3), rtol=1e-9)
    third = jax.jacfwd(jax.jacrev(jax.jacfwd(f)))(8.0)
    np.testing.assert_allclose(third, 10 / 27 * 8.0 ** (-8 / 3), rtol=1e-9)


def test_a_layer_in_a_layer():
    """sqrt(sqrt(p)) by a root whose condition is a root, and p in a fixed point's map."""
    inner = lambda p: pi.root(lambda z, p: z * z - p, 1.0, p).value
    outer = lambda p: pi.root(lambda z, p: z * z - inner(p), 1.0, p).value
    np.testing.assert_allclose(outer(16.0), 2.0, rtol=1e-9)
    np.testing.assert_allclose(jax.grad(outer)(16.0), 1 / 32, rtol=1e-9)
    np.testing.assert_allclose(jax.hessian(outer)(16.0), -3 / 16 * 16.0**-1.75, rtol=1e-8)
    nested = lambda p: pi.root(lambda z, p: inner(z) - p, 3.0, p).value  # z = p²
    np.testing.assert_allclose(jax.jit(jax.grad(nested))(2.0), 4.0, rtol=1e-8)
    np.testing.assert_allclose(jax.hessian(nested)(2.0), 2.0, rtol=1e-8)


def test_leaves_that_are_no_unknowns_pass_through():
    z0 = {"u": jnp.ones(2), "n": jnp.array(3), "flag": True}
    params = {"a": jnp.array([4.0, 9.0]), "power": 2, "on": np.bool_(True)}

    def fn(z, p):
        return {
            **z,
            "u": jnp.where(p["on"] & z["flag"], z["u"] ** p["power"] - p["a"], 0.0),
        }

    solution = pi.root(fn, z0, params)
    np.testing.assert_allclose(solution.value["u"], [2.0, 3.0])
    assert solution.value["n"] == 3 and solution.value["flag"]
    sums = lambda p: pi.root(fn, z0, p).value["u"].sum()
    g = jax.grad(sums, allow_int=True)(params)
    np.testing.assert_allclose(g["a"], [1 / 4, 1 / 6])
    assert g["power"].dtype == jax.dtypes.float0
    np.testing.assert_allclose(pi.root(lambda z, p: z * z - p, 1, 4).value, 2.0)


def test_precision_follows_the_arrays():
    p = jnp.arange(1, 4, dtype=jnp.float32)
    solution = pi.root(lambda z, p: z * z - p, jnp.ones(3, jnp.float32), p)
    assert solution.value.dtype == jnp.float32
    np.testing.assert_allclose(solution.value, np.sqrt([1, 2, 3]), rtol=1e-6)
    g = jax.grad(
        lambda p: pi.fixed_point(lambda z, p: 0.5 * (z + p / z), p, p).value.sum()
    )(p)
    assert g.dtype == jnp.float32
    np.testing.assert_allclose(g, 0.5 / np.sqrt([1, 2, 3]), rtol=1e-5)
    # A wider answer of fn lifts the state, as addition would.
    assert (
        pi.root(lambda z, p: z - p, jnp.float32(0), jnp.ones(())).value.dtype == jnp.float64
    )


def test_the_adjoint_is_the_gradient_in_a_zero():
    A = jnp.array([[3.0, 1.0], [-2.0, 4.0]])
    w = jnp.array([1.0, 10.0])
    loss = lambda zero: w @ pi.root(lambda z, p: A @ z - 1.0 - p, jnp.zeros(2), zero).value
    np.testing.assert_allclose(jax.grad(loss)(jnp.zeros(2)), jnp.linalg.solve(A.T, w))


def test_attach_takes_a_solution_from_anywhere():
    table = jnp.array([1.0, 2.0, 3.0])  # the cube roots of 1, 8, 27
    f = lambda p: pi.attach(table, lambda z, p: z**3 - p, p)
    p = jnp.array([1.0, 8.0, 27.0])
    np.testing.assert_allclose(jnp.diag(jax.jacrev(f)(p)), p ** (-2 / 3) / 3)
    np.testing.assert_array_equal(f(p), table)
