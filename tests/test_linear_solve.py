"""Linear solves as layers, GMRES, and Jacobians that are never dense."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import pyimplicit as pi
from pyimplicit.linear.colouring import column_colours, row_colours


RNG = np.random.default_rng(5)
N = 6
A = jnp.array(RNG.normal(size=(N, N)) + 5 * np.eye(N))
B = jnp.array(RNG.normal(size=N) * 100)
ROWS, COLS = np.divmod(np.arange(N * N), N)
FULL = pi.SparsePattern(ROWS, COLS, (N, N))


def as_tree(v):
    return {"re": v[:2], "c": jax.lax.complex(v[2:4], v[4:6])}


def from_tree(t):
    return jnp.concatenate([t["re"], t["c"].real, t["c"].imag])


# name: x as a function of (A, b)
WAYS = {
    "array": lambda A, b: pi.linear_solve(A, b),
    "array_gmres": lambda A, b: pi.linear_solve(A, b, solver=pi.GMRES(1e-13, 1e-13)),
    "columns": lambda A, b: pi.linear_solve(A, jnp.stack([b, 2 * b], 1))[:, 1] / 2,
    "function": lambda A, b: pi.linear_solve(lambda x: A @ x, b),
    "function_bicgstab": lambda A, b: pi.linear_solve(
        lambda x: A @ x, b, solver=lx.BiCGStab(1e-13, 1e-13)),
    "function_on_trees": lambda A, b: from_tree(
        pi.linear_solve(lambda x: as_tree(A @ from_tree(x)), as_tree(b))),
    "sparse": lambda A, b: pi.linear_solve(pi.SparseOperator(FULL, A.reshape(-1)), b),
    "lineax": lambda A, b: pi.linear_solve(lx.MatrixLinearOperator(A), b),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_value_and_derivatives(name):
    solve, exact = jax.jit(WAYS[name]), jnp.linalg.solve
    np.testing.assert_allclose(solve(A, B), exact(A, B), rtol=1e-10)
    w, tA, tb = jnp.cos(B), jnp.sin(A), jnp.ones(N) * 3
    loss = lambda f: lambda A, b: w @ f(A, b) ** 2
    found = jax.jit(jax.grad(loss(solve), (0, 1)))(A, B)
    expected = jax.grad(loss(exact), (0, 1))(A, B)
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-8, atol=1e-9 * np.abs(e).max())
    hvp = lambda f: jax.jit(jax.jvp, static_argnums=0)(
        jax.grad(loss(f), (0, 1)), (A, B), (tA, tb)
    )[1]
    for f, e in zip(hvp(solve), hvp(exact), strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-7, atol=1e-8 * np.abs(e).max())


def test_batches_and_their_failures():
    singular = A.at[:, 0].set(0.0)
    stack = jnp.stack([A, singular, A.T])
    solve = jax.jit(jax.vmap(lambda A: pi.linear_solve(A, B, throw=False)))
    x = solve(stack)
    np.testing.assert_allclose(x[0], jnp.linalg.solve(A, B), rtol=1e-12)
    np.testing.assert_allclose(x[2], jnp.linalg.solve(A.T, B), rtol=1e-12)
    assert np.isnan(x[1]).all()
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"linear_solve.*singular"):
        np.asarray(jax.vmap(lambda A: pi.linear_solve(A, B))(stack))
    lazy = pi.GMRES(1e-12, 1e-12, max_steps=2)
    with pytest.raises(jax.errors.JaxRuntimeError, match="max_steps"):
        np.asarray(pi.linear_solve(lambda x: A @ x, B, solver=lazy))


def test_gmres_takes_n_products_on_any_matrix_of_order_n():
    operator = lx.MatrixLinearOperator(A)
    for restart, at_most in ((N, N), (3, 200)):
        solver = pi.GMRES(1e-12, 1e-12, restart=restart)
        found = lx.linear_solve(operator, B, solver)
        np.testing.assert_allclose(found.value, jnp.linalg.solve(A, B), rtol=1e-9)
        assert found.stats["num_steps"] <= at_most
    # A cyclic shift: no progress before the n-th product.
    shift = lx.MatrixLinearOperator(jnp.roll(jnp.eye(N), 1, 0))
    unit = jnp.zeros(N).at[0].set(1.0)
    found = lx.linear_solve(shift, unit, pi.GMRES(1e-12, 1e-12))
    assert found.stats["num_steps"] == N
    stuck = lx.linear_solve(shift, unit, pi.GMRES(1e-12, 1e-12, restart=2), throw=False)
    assert stuck.result == lx.RESULTS.stagnation


def test_gmres_with_preconditioner_and_guess():
    operator, inverse = lx.MatrixLinearOperator(A), jnp.linalg.inv(A)
    x = jnp.linalg.solve(A, B)
    once = pi.GMRES(1e-10, 1e-10, max_steps=1)
    M = {"preconditioner": lx.MatrixLinearOperator(inverse)}
    np.testing.assert_allclose(
        lx.linear_solve(operator, B, once, options=M).value, x, rtol=1e-8
    )
    start = lx.linear_solve(operator, B, once, options={"y0": x})
    assert start.stats["num_steps"] == 0
    with pytest.raises(ValueError, match="square"):
        pi.GMRES(1e-8, 1e-8).init(lx.MatrixLinearOperator(A[:, :3]), {})


def _pattern(places, n):
    rows, cols = map(np.concatenate, zip(*places, strict=True))
    return pi.SparsePattern(rows, cols, (n, n))


def test_structurally_orthogonal_columns():
    n = 40
    i = np.arange(n)
    band = [(i, i), (i[1:], i[:-1]), (i[:-1], i[1:])]
    tridiagonal = _pattern(band, n)
    assert column_colours(tridiagonal).max() + 1 == 3
    arrow = [(i, i), (np.zeros(n - 1, int), i[1:])]  # a full first row
    arrow = _pattern(arrow, n)
    assert column_colours(arrow).max() + 1 == n
    assert row_colours(arrow).max() + 1 == 2


# A nonlinear system with a known solution and a Jacobian with a full row and a band.
def system(z, p):
    band = 4 * z + jnp.roll(z, 1) ** 2 / 10 - jnp.sin(jnp.roll(z, -1))
    return band.at[0].add(jnp.sum(z**3) / z.size) - p


def pattern_of(n):
    i = np.arange(n)
    rows = np.concatenate([i, i, i, np.zeros(n, int)])
    cols = np.concatenate([i, np.roll(i, 1), np.roll(i, -1), i])
    places = np.unique(np.stack([rows, cols]), axis=1)
    return pi.SparsePattern(places[0], places[1], (n, n))


STORAGE = {
    "none": lambda n: None,
    "dense": lambda n: pi.Dense(),
    "matrix_free": lambda n: pi.MatrixFree(),
    "pattern": pattern_of,
    "function": lambda n: lambda z, p: jax.jacfwd(system)(z, p),
    "operator": lambda n: lambda z, p: lx.MatrixLinearOperator(jax.jacfwd(system)(z, p)),
}


@pytest.mark.parametrize("name", STORAGE)
def test_every_storage_of_the_jacobian_gives_the_same_layer(name):
    n = 8
    z = jnp.sin(jnp.arange(n) + 1.0)
    p = system(z, 0.0)
    solve = lambda p: pi.root(system, jnp.zeros(n), p, jacobian=STORAGE[name](n)).value
    np.testing.assert_allclose(solve(p), z, rtol=1e-8)
    inverse = jnp.linalg.inv(jax.jacfwd(system)(z, p))
    np.testing.assert_allclose(jax.jit(jax.jacrev(solve))(p), inverse, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(solve))(p), inverse, rtol=1e-7, atol=1e-9)


def sizes_in(jaxpr):
    for eqn in jaxpr.eqns:
        for v in eqn.outvars:
            yield int(np.prod(v.aval.shape)) if hasattr(v.aval, "shape") else 0
        for value in eqn.params.values():
            for item in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(item, "jaxpr", item)
                if hasattr(inner, "eqns"):
                    yield from sizes_in(inner)


def ring(z, p):  # the same without the full row, which SuperLU fills in
    return 4 * z + jnp.roll(z, 1) ** 2 / 10 - jnp.sin(jnp.roll(z, -1)) - p


def ring_pattern(n):
    i = np.arange(n)
    cols = np.concatenate([i, np.roll(i, 1), np.roll(i, -1)])
    return pi.SparsePattern(np.tile(i, 3), cols, (n, n))


@pytest.mark.parametrize("storage", [pi.MatrixFree(), ring_pattern], ids=["free", "sparse"])
def test_a_large_root_never_makes_a_dense_matrix(storage, engine):
    """100,000 unknowns: a dense Jacobian would take 80 GB."""
    n = 100_000
    jacobian: Any = storage(n) if callable(storage) else storage
    z = jnp.sin(jnp.arange(n) + 1.0)
    p = ring(z, 0.0)
    loss = lambda p: jnp.sum(pi.root(ring, jnp.zeros(n), p, jacobian=jacobian).value ** 2)
    run = jax.value_and_grad(loss)
    program = jax.jit(run).trace(p)
    assert max(sizes_in(program.jaxpr.jaxpr)) < 100 * n
    value, g = program.lower().compile()(p)
    np.testing.assert_allclose(value, jnp.sum(z**2), rtol=1e-9)
    # λ solves Jᵀ λ = 2 z.
    adjoint = jax.linear_transpose(lambda t: jax.jvp(ring, (z, p), (t, 0 * p))[1], z)(g)[0]
    np.testing.assert_allclose(adjoint, 2 * z, atol=1e-6)


BAD = {
    "not_square": (lambda: pi.linear_solve(A[:, :3], B), ValueError, "square"),
    "b": (lambda: pi.linear_solve(A, B[:3]), ValueError, "b of shape"),
    "operator": (lambda: pi.linear_solve(lx.MatrixLinearOperator(A[:, :3]), B),
                 ValueError, "square"),
    "function": (lambda: pi.linear_solve(lambda x: x[:2], B), ValueError, "looks like b"),
    "integers": (lambda: pi.linear_solve(lambda x: x, jnp.arange(3)), ValueError, "float"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, words = BAD[name]
    with pytest.raises(error, match=words) as caught:
        call()
    assert "Got" in str(caught.value)
