"""Julia functions in JAX: values, both modes, second order, transforms, errors."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import pyimplicit as pi


pytestmark = pytest.mark.julia
X = jnp.array([0.5, -1.0, 2.0])
A = np.array([[1 + i + 2.0 * (1 + j) for j in range(3)] for i in range(2)])


@pytest.fixture(scope="module", autouse=True)
def functions():
    pi.julia.include(Path(__file__).with_name("julia_functions.jl"))


def like(x):
    return x


def struct(*shape, dtype="float64"):
    return jax.ShapeDtypeStruct(shape, dtype)


def square():
    return pi.julia.function("BridgeTests.square", struct(2))


def test_value_and_transforms():
    f = square()
    np.testing.assert_allclose(f(X), A @ X**2)
    np.testing.assert_allclose(jax.jit(f)(X), A @ X**2)
    batch = jnp.stack([X, 2 * X])
    np.testing.assert_allclose(jax.vmap(f)(batch), (A @ (batch**2).T).T)
    _, scanned = jax.lax.scan(lambda c, x: (c, f(x)), 0.0, batch)
    np.testing.assert_array_equal(scanned, jax.vmap(f)(batch))


def test_both_modes_and_second_order():
    f = square()
    jacobian = 2 * A * X
    np.testing.assert_allclose(jax.jacfwd(f)(X), jacobian)
    np.testing.assert_allclose(jax.jacrev(f)(X), jacobian)
    np.testing.assert_allclose(jax.jit(jax.jacrev(f))(X), jacobian)
    loss = lambda x: jnp.sum(jnp.sin(f(x)))
    want = jax.hessian(lambda x: jnp.sum(jnp.sin(A @ x**2)))(X)
    for hessian in (
        jax.hessian,
        lambda g: jax.jacrev(jax.jacfwd(g)),
        lambda g: jax.jacfwd(jax.jacfwd(g)),
        lambda g: jax.jacrev(jax.jacrev(g)),
    ):
        np.testing.assert_allclose(hessian(loss)(X), want, rtol=1e-12)
    gradients = jax.vmap(jax.grad(loss))(jnp.stack([X, 2 * X]))
    np.testing.assert_allclose(gradients[1], jax.grad(loss)(2 * X))


def mixed():
    out = lambda M, s, k: (struct(M.shape[0]), struct())
    return pi.julia.function("BridgeTests.mixed", out)


def test_several_arguments_arrive_with_their_indices():
    M = jnp.arange(6.0).reshape(2, 3)  # row-major here, a Matrix with the same indices
    f = mixed()
    column, number = f(M, 3.0, jnp.int32(2))
    np.testing.assert_array_equal(column, 3.0 * M[:, 1])
    np.testing.assert_allclose(number, jnp.sum(M**2) + 3.0)
    loss = lambda M, s: jnp.dot(*(f(M, s, jnp.int32(2))[:1] * 2)) * f(M, s, jnp.int32(1))[1]
    check_grads(loss, (M, jnp.array(3.0)), order=1, rtol=1e-6)
    np.testing.assert_allclose(
        jax.jacfwd(loss)(M, 3.0), jax.jacrev(loss)(M, 3.0), rtol=1e-12
    )
    Ms = jnp.stack([M, M + 1, -M])
    both = jax.vmap(f, (0, None, 0))(Ms, 3.0, jnp.array([1, 2, 3], jnp.int32))
    np.testing.assert_array_equal(both[0][2], 3.0 * -M[:, 2])
    nested = jax.vmap(lambda M: jax.vmap(lambda s: f(M, s, jnp.int32(1))[0])(X))(Ms)
    np.testing.assert_allclose(nested, Ms[:, None, :, 0] * X[None, :, None])
    # A gradient with respect to an argument that is shared by the batch
    total = lambda s: jnp.sum(jax.vmap(lambda M: f(M, s, jnp.int32(1))[0])(Ms) ** 2)
    np.testing.assert_allclose(jax.grad(total)(3.0), 6.0 * jnp.sum(Ms[:, :, 0] ** 2))


def test_one_rule_is_enough_for_its_mode():
    backward = pi.julia.function("BridgeTests.reverse_only", like)
    np.testing.assert_allclose(jax.grad(lambda x: backward(x).sum())(X), 3 * X**2)
    with pytest.raises(NotImplementedError, match="no ChainRules `frule` for `reverse_on"):
        jax.jvp(backward, (X,), (X,))
    forward = pi.julia.function("BridgeTests.forward_only", like)
    np.testing.assert_allclose(jax.jvp(forward, (X,), (X,))[1], 3 * X**3)
    with pytest.raises(NotImplementedError, match="no ChainRules `rrule` for `forward_on"):
        jax.grad(lambda x: forward(x).sum())(X)
    with pytest.raises(NotImplementedError, match=r"`frule` for `Pullback\(reverse_on"):
        # Compiled, so that only what the Hessian needs is asked for
        jax.jit(jax.hessian(lambda x: backward(x).sum()))(X)
    with pytest.raises(NotImplementedError, match=r"Define ChainRulesCore\.rrule"):
        jax.grad(lambda x: pi.julia.function("BridgeTests.no_rule", like)(x).sum())(X)


def test_single_precision_and_integers():
    f = pi.julia.function("BridgeTests.reverse_only", like)
    for dtype in ("float32", "int32", "complex128"):
        x = X.astype(dtype)
        np.testing.assert_allclose(f(x), x**3, rtol=1e-6)
        assert f(x).dtype == dtype


def test_complex_derivatives_follow_jax():
    f = pi.julia.function("BridgeTests.holomorphic", like)
    z = X + 1j * X[::-1]
    loss = lambda f: lambda z: jnp.sum(jnp.abs(f(z) - 1j) ** 2)
    want = jax.grad(loss(lambda z: z**2))(z)
    np.testing.assert_allclose(jax.grad(loss(f))(z), want, rtol=1e-12)
    np.testing.assert_allclose(jax.jacfwd(f, holomorphic=True)(z), jnp.diag(2 * z))
    np.testing.assert_allclose(jax.jacrev(f, holomorphic=True)(z), jnp.diag(2 * z))


def test_a_julia_callable_and_a_base_function():
    from juliacall import Main  # pyright: ignore[reportAttributeAccessIssue]

    # A closure with state of its own
    scale = pi.julia.function(Main.seval("let c = 2.5; x -> c .* x; end"), like)
    np.testing.assert_allclose(scale(X), 2.5 * X)
    np.testing.assert_allclose(pi.julia.function("Base.reverse", like)(X), X[::-1])


def test_an_error_then_a_good_call():
    f = jax.jit(pi.julia.function("BridgeTests.fails", like))
    for _ in range(3):
        with pytest.raises(jax.errors.JaxRuntimeError, match="must be positive"):
            f(-X).block_until_ready()
        np.testing.assert_array_equal(f(X), X)


def test_what_out_promised():
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"size \(3,\), as `out` says"):
        pi.julia.function("BridgeTests.wrong_size", like)(X).block_until_ready()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BridgeTests.nothing_here", "has no `nothing_here`"),
        ("NoSuchPackage.f", "neither defined in Main nor a package"),
    ],
)
def test_unknown_names(name, text):
    with pytest.raises(Exception, match=text):
        pi.julia.function(name, like)(X)


def test_bad_arguments():
    with pytest.raises(TypeError, match="a name or a Julia callable"):
        pi.julia.function(3, like)
    with pytest.raises(TypeError, match="at least one array"):
        square()()
    with pytest.raises(FileNotFoundError, match=r"no_such\.jl"):
        pi.julia.include("no_such.jl")


def test_refused_on_other_platforms():
    with pytest.raises(NotImplementedError, match="CPU only"):
        jax.jit(square()).trace(X).lower(lowering_platforms=("cuda",))
