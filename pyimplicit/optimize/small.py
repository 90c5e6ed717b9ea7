"""Dense linear algebra for symmetric positive definite systems, large and tiny.

Ten thousand 5 x 5 factorisations are ten thousand calls of LAPACK, or one loop of plain
arithmetic that XLA vectorises over the batch. Up to `SMALL` unknowns it is the latter.
"""

import jax
import jax.numpy as jnp
import lineax as lx

from ..linear.operator import SparseOperator


SMALL = 8  # written out, the code grows with the cube


def product(M, x):
    """M x, `(m, n)` by `(n,)`; M an array or a lineax operator."""
    if isinstance(M, lx.AbstractLinearOperator):
        return M.mv(x)
    return (M * x).sum(-1) if x.shape[0] <= SMALL else M @ x


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
    n = H.shape[0]
    if n > SMALL:
        # LAPACK wants columns, XLA keeps rows: the transpose of a symmetric H is free.
        return jax.lax.linalg.cholesky(H.T, symmetrize_input=False)
    rows: list[list] = []
    for i in range(n):
        row = []
        for j in range(i):
            known = sum(row[k] * rows[j][k] for k in range(j))
            row.append((H[i, j] - known) * rows[j][j])
        row.append(jax.lax.rsqrt(H[i, i] - sum(r * r for r in row)))  # inverted diagonal
        rows.append(row)
    return rows


def cholesky_solve(L, r):
    """x with L Lᵀ x = r."""
    n = r.shape[0]
    if n > SMALL:
        half = jax.lax.linalg.triangular_solve(L, r[:, None], left_side=True, lower=True)
        return jax.lax.linalg.triangular_solve(
            L, half, left_side=True, lower=True, transpose_a=True
        )[:, 0]
    v = []
    for i in range(n):
        v.append((r[i] - sum(L[i][k] * v[k] for k in range(i))) * L[i][i])
    for i in reversed(range(n)):
        v[i] = (v[i] - sum(L[k][i] * v[k] for k in range(i + 1, n))) * L[i][i]
    return jnp.stack(v)
