"""Sparse quadratic programmes: Clarabel for the optimum, and what Julia shares."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .._status import Status
from ..linear.operator import SparseOperator
from ..linear.pattern import SparsePattern
from ..linear.solve import raw_solve
from .cone_host import Clarabel, Structure, solve_conic
from .cones import Nonnegative, Zero
from .qp_assemble import symmetric_part
from .qp_check import indefinite_below
from .qp_data import QP, programme
from .qp_polish import Polished, polish


def as_sparse(M: Any, shape: tuple[int, int], dtype):
    """An array or operator as a `SparseOperator`; without rows, an array `(0, n)`."""
    if shape[0] == 0:
        return jnp.zeros(shape, dtype)
    if M is None:
        empty = np.zeros(0, int)
        return SparseOperator(SparsePattern(empty, empty, shape), jnp.zeros(0, dtype))
    if not isinstance(M, SparseOperator):
        rows, cols = (i.reshape(-1) for i in np.indices(shape))
        return SparseOperator(SparsePattern(rows, cols, shape), M.reshape(-1).astype(dtype))
    if M.transposed:
        pattern = M.pattern
        M = SparseOperator(SparsePattern(pattern.cols, pattern.rows, shape), M.values)
    return SparseOperator(M.pattern, M.values.astype(dtype))


def sparse_programme(given) -> QP:
    """The stacked form of `(P, q, A, b, G, h, lb, ub)`."""
    P, q, A, b, G, h, lb, ub = given
    n, dtype = q.size, q.dtype
    whole: Any = as_sparse(P, (n, n), dtype)
    P = symmetric_part(whole)
    A, G = as_sparse(A, (b.size, n), dtype), as_sparse(G, (h.size, n), dtype)
    return programme(P, q, A, b, G, h, lb, ub)


def sparse_optimum(problem: QP, solver: Clarabel):
    """`(point, status, steps, polished)` by Clarabel, like the dense solve's."""
    n, p, _ = problem.sizes
    structure, values = _structure(problem, solver)
    b = jnp.concatenate([problem.b, problem.d])
    x, z, s, status, steps = solve_conic(structure, *values, b)
    y, z, s = z[:p], z[p:], s[p:]
    if problem.C.lower and problem.C.upper:  # the multiplier of a fixed unknown is one
        m = problem.C.m
        pinned = problem.fixed[m + n :]
        z = z.at[m + n :].add(jnp.where(pinned, -z[m : m + n], 0.0))
    z = jnp.where(problem.live | problem.fixed, z, 0.0)
    point = x, y, z
    best = polish(problem, *point, z > s, status == Status.converged)
    return point, status, steps, best


def judged(problem: QP, status, best: Polished):
    """The status, after a look at whether P is definite and the answer accurate."""
    indefinite = jnp.int32(Status.not_positive_definite)
    status = jnp.where(_definite(problem.P), status, indefinite)
    rough = (status == Status.converged) & ~(best.error <= 1e-5)
    return jnp.where(rough, jnp.int32(Status.inaccurate), status)


def _structure(problem: QP, solver: Clarabel):
    """The static part for the host, and the numbers of P, q and A."""
    n, p, M = problem.sizes
    P, A, C = problem.P, problem.A, problem.C
    upper = np.flatnonzero(P.pattern.rows <= P.pattern.cols)
    i, at = np.arange(n), p + C.m
    places, values = [], []
    for matrix, above in ((A, 0), (C.G, p)):
        if isinstance(matrix, SparseOperator):
            places.append((matrix.pattern.rows + above, matrix.pattern.cols))
            values.append(matrix.pattern.symmetrise(matrix.values))
    for here, sign in ((C.lower, -1.0), (C.upper, 1.0)):
        if here:
            places.append((at + i, i))
            values.append(jnp.full(n, sign, problem.q.dtype))
            at += n
    none = [np.zeros(0, int)]
    rows, cols = (np.concatenate(none + [place[k] for place in places]) for k in (0, 1))
    cones = (*([Zero(p)] if p else []), *([Nonnegative(M)] if M else []))
    corner = P.pattern.rows[upper], P.pattern.cols[upper]
    structure = Structure(n, corner, (rows, cols), cones, solver)
    entries = jnp.concatenate([jnp.zeros(0, problem.q.dtype), *values])
    return structure, (P.pattern.symmetrise(P.values)[upper], problem.q, entries)


def _definite(P: SparseOperator):
    """Whether P + a small multiple of the identity is positive definite."""
    pattern = SparsePattern(P.pattern.rows, P.pattern.cols, P.pattern.shape, "spd")
    top = jnp.max(jnp.abs(P.values), initial=0.0)
    shift = indefinite_below(P.values.dtype) * top + 1e-30
    values = P.values + jnp.where(pattern.rows == pattern.cols, shift, 0.0)
    zero = jnp.zeros(pattern.shape[0], values.dtype)
    _, status, _ = raw_solve(pattern, values, zero, False, throw=False)
    return status == 0
