"""Dense and sparse matrices under one set of names, and Cholesky factors."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx

from ..linear.operator import SparseOperator


TINY = 8  # up to so many columns a batch of products is one loop of plain arithmetic


def product(M, x):
    """M x, `(m, n)` by `(n,)`; M an array or a lineax operator."""
    if isinstance(M, lx.AbstractLinearOperator):
        return M.mv(x)
    return (M * x).sum(-1) if x.shape[0] <= TINY else M @ x


def tproduct(M, v):
    """Mᵀ v."""
    if isinstance(M, lx.AbstractLinearOperator):
        return M.transpose().mv(v)
    return product(M.T, v)


def row_extent(M):
    """The largest entry and the sum of the entries of each row, in absolute value."""
    if isinstance(M, SparseOperator):
        size, rows = jnp.abs(M.values), M.pattern.rows
        zero = jnp.zeros(M.pattern.shape[0], size.dtype)
        return zero.at[rows].max(size), zero.at[rows].add(size)
    size = jnp.abs(M)
    return jnp.max(size, axis=1, initial=0.0), jnp.sum(size, axis=1)


def largest(M):
    """The largest entry in absolute value; 0 of an empty matrix."""
    entries = M.values if isinstance(M, SparseOperator) else M
    return jnp.max(jnp.abs(entries), initial=0.0)


def cholesky(H):
    """A factor for `cholesky_solve`: the lower triangle, NaN if H is not positive."""
    # LAPACK wants columns, XLA keeps rows: the transpose of a symmetric H costs nothing.
    return jax.lax.linalg.cholesky(H.T, symmetrize_input=False)


def cholesky_solve(L, r):
    """x with L Lᵀ x = r."""
    solve = functools.partial(
        jax.lax.linalg.triangular_solve, L, left_side=True, lower=True
    )
    return solve(solve(r[:, None]), transpose_a=True)[:, 0]
