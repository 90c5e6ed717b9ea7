"""The reduced optimality conditions of a sparse programme as one sparse matrix."""

import functools
import hashlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .. import engine
from ..engine.julia.start import julia
from ..linear.operator import SparseOperator
from ..linear.pattern import SparsePattern


def assembled(K: Any, rho, delta, weights) -> SparseOperator:
    """The matrix of a `KKT` of sparse blocks, with ρ and -δ on its diagonal, symmetric and
    reduced: the multipliers of bounds are eliminated, and those of A and G too where that
    is cheaper,

        P + ρI + Aᵀ A/δ + Cᵀ diag(w) C     or     [P + ρI + bounds   Aᵀ    Gᵀ   ]
                                                  [A                -δI         ]
        w = `weights`, zero for rows that do      [G                      -1/w  ]
        not count

    Its pattern does not depend on which rows are active: those that are not have zeros.
    """
    C, (n, p), dtype = K.C, K.sizes, K.diag.dtype
    P, A, G = K.P, K.A, C.G
    layout = _layout(_pattern(P), _pattern(A), _pattern(G), condenses(P, A, C))
    w, low, up = C.split(weights)
    corner = rho * jnp.ones(n, dtype) + low + up
    parts = [P.pattern.symmetrise(P.values), corner]
    if layout.pairs is None:
        on = w > 0
        if p:
            parts += [A.values, A.values, -delta * jnp.ones(p, dtype)]
        if C.m:
            g = jnp.where(on[G.pattern.rows], G.values, 0.0)
            parts += [g, g, jnp.where(on, -1 / jnp.where(on, w, 1.0), -1.0)]
    else:
        for M, pair, weight in ((A, layout.pairs[0], None), (G, layout.pairs[1], w)):
            if isinstance(M, SparseOperator):
                here, there = pair
                scale = 1 / delta if weight is None else weight[M.pattern.rows[here]]
                parts.append(M.values[here] * M.values[there] * scale)
    values = jnp.zeros(layout.pattern.nnz, dtype)
    values = values.at[layout.slot].add(jnp.concatenate(parts))
    return SparseOperator(layout.pattern, values)


def _pattern(M) -> SparsePattern | None:
    return M.pattern if isinstance(M, SparseOperator) else None


FILL = 20  # products of entries of one row, for each entry, up to which rows are cheap


def condenses(P, A, C) -> bool:
    """Whether the multipliers of A and G are eliminated too: by the work that Julia's
    analysis predicts, or by the number of products where there is none."""
    if engine.current() == "julia":
        return known(_pattern(P), _pattern(A), _pattern(C.G), C.lower, C.upper)[1]
    patterns = [M.pattern for M in (A, C.G) if isinstance(M, SparseOperator)]
    products = sum((np.bincount(M.rows) ** 2).sum() for M in patterns)
    return products <= FILL * (P.pattern.nnz + sum(M.nnz for M in patterns))


@functools.lru_cache(maxsize=64)
def known(P, A, G, lower: bool, upper: bool) -> tuple[int, bool]:
    """The key under which Julia knows these patterns; and whether it condenses."""
    none = np.zeros(0, np.int64)
    rows = lambda M: (M.rows, M.cols) if M else (none, none)
    count = lambda M: M.shape[0] if M else 0
    sizes = P.shape[0], count(A), count(G)
    digest = hashlib.sha256(repr((sizes, lower, upper)).encode())
    for M in (P, A, G):
        for i in rows(M):
            digest.update(np.ascontiguousarray(i, np.int64).tobytes() + b"|")
    key = int.from_bytes(digest.digest()[:8], "little") >> 1
    condensed = julia().register_programme(
        key, *sizes, rows(P), rows(A), rows(G), lower, upper
    )
    return key, bool(condensed)


class Layout(NamedTuple):
    """The pattern, where each number of `assembled`'s parts goes, and which entries of A
    and G are multiplied (None where they are not)."""

    pattern: SparsePattern
    slot: np.ndarray
    pairs: Any


@functools.lru_cache(maxsize=32)
def _layout(P, A, G, condensed: bool) -> Layout:
    n, at = P.shape[0], P.shape[0]
    i = np.arange(n)
    places, pairs = [(P.rows, P.cols), (i, i)], []
    for M in (A, G):
        if condensed:
            pairs.append(_row_pairs(M) if M else None)
            if M:
                places.append(tuple(M.cols[k] for k in pairs[-1]))
        elif M:
            below = at + np.arange(M.shape[0])
            places += [(M.cols, at + M.rows), (at + M.rows, M.cols), (below, below)]
            at += M.shape[0]
    rows, cols = (np.concatenate([place[k] for place in places]) for k in (0, 1))
    unique, slot = np.unique(rows * at + cols, return_inverse=True)
    pattern = SparsePattern(*np.divmod(unique, at), (at, at), "quasidefinite")
    return Layout(pattern, slot, pairs if condensed else None)


def _row_pairs(M: SparsePattern):
    """All pairs (k, l) of entries that stand in one row."""
    order = np.argsort(M.rows, kind="stable")
    count = np.bincount(M.rows, minlength=M.shape[0])
    width, start = count[M.rows[order]], (np.cumsum(count) - count)[M.rows[order]]
    first = np.repeat(np.arange(M.nnz), width)
    step = np.arange(first.size) - np.repeat(np.cumsum(width) - width, width)
    return order[first], order[np.repeat(start, width) + step]


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
