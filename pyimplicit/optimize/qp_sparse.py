"""Sparse quadratic programmes, and Clarabel for the optimum of these and of dense ones."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .._status import Status
from ..linear.operator import SparseOperator
from ..linear.pattern import SparsePattern
from .cone_host import Clarabel, Structure, solve_conic
from .cones import Nonnegative, Zero
from .qp_assemble import symmetric_part
from .qp_check import definite
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
    status = jnp.where(definite(problem.P), status, indefinite)
    rough = (status == Status.converged) & ~(best.error <= 1e-5)
    return jnp.where(rough, jnp.int32(Status.inaccurate), status)


def _structure(problem: QP, solver: Clarabel):
    """The static part for the host, and the numbers of P, q and A."""
    n, p, M = problem.sizes
    A, C = problem.A, problem.C
    P_rows, P_cols, P_values = _entries(problem.P)
    upper = np.flatnonzero(P_rows <= P_cols)
    i, at = np.arange(n), p + C.m
    places, values = [], []
    for matrix, above in ((A, 0), (C.G, p)):
        rows, cols, numbers = _entries(matrix)
        places.append((rows + above, cols))
        values.append(numbers)
    for here, sign in ((C.lower, -1.0), (C.upper, 1.0)):
        if here:
            places.append((at + i, i))
            values.append(jnp.full(n, sign, problem.q.dtype))
            at += n
    rows, cols = (np.concatenate([place[k] for place in places]) for k in (0, 1))
    cones = (*([Zero(p)] if p else []), *([Nonnegative(M)] if M else []))
    corner = P_rows[upper], P_cols[upper]
    structure = Structure(n, corner, (rows, cols), cones, solver)
    return structure, (P_values[upper], problem.q, jnp.concatenate(values))


def _entries(M):
    """Rows, columns and values of an array or a `SparseOperator`."""
    if isinstance(M, SparseOperator):
        return M.pattern.rows, M.pattern.cols, M.pattern.symmetrise(M.values)
    rows, cols = (i.reshape(-1) for i in np.indices(M.shape))
    return rows, cols, M.reshape(-1)
