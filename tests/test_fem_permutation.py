"""Permutations against plain indexing, in all transforms; and that none of them is
transposed to a sum by places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import fem
from pyimplicit.fem import FunctionSpace, Mesh
from pyimplicit.fem.permutation import Permutation


close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13)
ORDER = np.array([3, 0, 4, 1, 2])
P = Permutation(ORDER)
rng = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("shape", [(5,), (5, 2)])
def test_values(shape, dtype):
    x = jnp.asarray(rng.normal(size=shape), dtype)
    for take in (P, jax.jit(P)):
        close(take(x), x[ORDER])
        close(P.back(take(x)), x)
    turn = lambda f: jax.vmap(f, in_axes=-1, out_axes=-1)
    batch = jnp.stack([x, 2 * x, -x], axis=-1)
    close(turn(P)(batch), batch[ORDER])
    close(turn(turn(P))(jnp.stack([batch, -batch], axis=-1))[..., 1], -batch[ORDER])


@pytest.mark.parametrize("take, plain", [
    (P, lambda x: x[ORDER]), (P.back, lambda x: x[np.argsort(ORDER)])])  # fmt: skip
def test_derivatives(take, plain):
    x, a, b = jnp.asarray(rng.normal(size=(3, 5)))
    total = lambda f: lambda x: jnp.sum(jnp.sin(b * f(x)) ** 3)
    for f, g in ((take, plain), (lambda x: take(x**2), lambda x: plain(x**2))):
        for ours, theirs in zip(
            jax.jvp(f, (x,), (a,)), jax.jvp(g, (x,), (a,)), strict=True
        ):
            close(ours, theirs)
        close(jax.vjp(f, x)[1](b)[0], jax.vjp(g, x)[1](b)[0])
        close(jax.jacfwd(f)(x), jax.jacrev(g)(x))
        close(jax.jacrev(f)(x), jax.jacfwd(g)(x))
        for hessian in (jax.hessian, lambda f: jax.jacrev(jax.jacrev(f))):
            close(hessian(total(f))(x), jax.hessian(total(g))(x))
        ours, theirs = (jax.jacfwd(jax.hessian(total(h)))(x) for h in (f, g))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)
    (back,) = jax.linear_transpose(take, x)(b)
    close(back, jax.linear_transpose(plain, x)(b)[0])


def test_no_sum_by_places():
    """The cotangent of the matrix is read from its places, not summed into them."""
    V = FunctionSpace(Mesh.rectangle(4, 3))
    condensed = fem.models.poisson(V, {"left": 0.0, "top": 1.0})._condensed
    values, u = jnp.zeros(len(V.sparsity.rows)), jnp.zeros(V.size)
    x, given = jnp.zeros(condensed.n_free), jnp.zeros(condensed.n_given)
    for f, at in (
        (condensed.matrix, (values,)),
        (condensed.vector, (u,)),
        (condensed.pick, (u,)),
        (condensed.expand, (x, given)),
    ):
        back = jax.jit(lambda *at, f=f: jax.vjp(f, *at)[1](f(*at)))
        assert "scatter" not in str(back.lower(*at).compile().as_text())
