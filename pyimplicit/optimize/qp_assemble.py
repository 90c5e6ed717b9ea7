"""The reduced optimality conditions of a sparse programme as one sparse matrix."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..linear.operator import SparseOperator
from ..linear.pattern import SparsePattern


def assembled(K: Any, rho, delta) -> SparseOperator:
    """The matrix of a `KKT` of sparse blocks, with ρ and -δ on its diagonal.

    Its pattern does not depend on which rows are active: those that are not have zeros.
    """
    C, (n, p) = K.C, K.sizes
    sparse = lambda M: M.pattern if isinstance(M, SparseOperator) else None
    pattern, slot = _layout(sparse(K.P), sparse(K.A), sparse(C.G), n, p, C.lower, C.upper)
    numbers = lambda M: M.values if isinstance(M, SparseOperator) else jnp.zeros(0)
    one = jnp.ones(n, K.diag.dtype)
    row, col = K.row.astype(one.dtype), K.col.astype(one.dtype)
    A, G, at, m = numbers(K.A), numbers(C.G), C.m, C.m
    rows = C.G.pattern.rows if m else np.zeros(0, int)
    parts = [
        K.P.pattern.symmetrise(K.P.values),
        rho * one,
        A,
        A,
        -delta * jnp.ones(p, one.dtype),
    ]
    parts += [G * col[:m][rows], G * row[:m][rows]]
    for here, sign in ((C.lower, -1.0), (C.upper, 1.0)):
        if here:
            parts += [sign * col[at : at + n], sign * row[at : at + n]]
            at += n
    # Rows of weakly active constraints are zero; a one keeps the matrix regular.
    diag = K.diag - jnp.where(K.row, delta, 0.0)
    parts += [jnp.where(~K.row & (K.diag == 0), 1.0, diag)]
    values = jnp.zeros(pattern.nnz, one.dtype).at[slot].add(jnp.concatenate(parts))
    return SparseOperator(pattern, values)


@functools.lru_cache(maxsize=32)
def _layout(P, A, G, n: int, p: int, lower: bool, upper: bool):
    """The pattern, and where each number of the parts above goes."""
    m = G.shape[0] if G else 0
    M = m + n * (lower + upper)
    i, at = np.arange(n), n + p
    none = np.zeros(0, int)
    places = [(P.rows, P.cols), (i, i)]
    a = (A.rows, A.cols) if A else (none, none)
    places += [(a[1], n + a[0]), (n + a[0], a[1]), (n + np.arange(p),) * 2]
    g = (G.rows, G.cols) if G else (none, none)
    places += [(g[1], at + g[0]), (at + g[0], g[1])]
    for block in range(lower + upper):
        k = at + m + block * n + i
        places += [(i, k), (k, i)]
    places += [(at + np.arange(M),) * 2]
    rows, cols = (np.concatenate([place[k] for place in places]) for k in (0, 1))
    size = n + p + M
    unique, slot = np.unique(rows * size + cols, return_inverse=True)
    rows, cols = np.divmod(unique, size)
    return SparsePattern(rows, cols, (size, size)), slot


def symmetric_part(P: SparseOperator) -> SparseOperator:
    """(P + Pᵀ)/2, with a full diagonal."""
    pattern, here, there = _mirrored(P.pattern)
    half = P.pattern.symmetrise(P.values) / 2
    zero = jnp.zeros(pattern.nnz, half.dtype)
    return SparseOperator(pattern, zero.at[here].add(half).at[there].add(half))


@functools.lru_cache(maxsize=32)
def _mirrored(pattern: SparsePattern):
    n = pattern.shape[0]
    i, rows, cols = np.arange(n), pattern.rows, pattern.cols
    all_rows, all_cols = np.concatenate([rows, cols, i]), np.concatenate([cols, rows, i])
    unique, slot = np.unique(all_rows * n + all_cols, return_inverse=True)
    both = SparsePattern(*np.divmod(unique, n), (n, n), "symmetric")
    return both, slot[: rows.size], slot[rows.size : 2 * rows.size]
