"""The interior point method in Julia, over threads, called by XLA.

The algorithm is that of `qp_interior.py` and `qp_polish.py`: a batch is one call, in which
each programme is solved in the workspace of a thread (see `julia/src/qp.jl`). Of sparse
programmes the optimality conditions are condensed, or factorised as a whole where that is
less work (`julia/src/qp_system.jl`).
"""

from typing import Any

import jax
import jax.numpy as jnp

from .. import engine
from ..engine.call import call
from ..linear.operator import SparseOperator
from .qp_assemble import known
from .qp_data import QP
from .qp_kkt import KKT, Sets, condense, refined
from .qp_polish import Polished


def in_julia(dtype) -> bool:
    """Whether the current engine solves programmes of this precision itself."""
    wide = dtype in (jnp.float32, jnp.float64)
    return wide and engine.current() == "julia" and jax.default_backend() == "cpu"


def julia_optimum(problem: QP, rtol: float, max_steps: int, start):
    """`(point, status, steps, polished)`, like the solve in JAX. `start`: a neighbour's
    solution, (x, y, z), or None."""
    (n, p, M), dtype = problem.sizes, problem.q.dtype
    sparse = isinstance(problem.P, SparseOperator)
    number = lambda *shape: jax.ShapeDtypeStruct(shape, dtype)
    flag = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bool_)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    point = number(n), number(p), number(M)
    zero = tuple(jnp.zeros(a.shape, dtype) for a in point)
    matrices = problem.P, problem.A, problem.C.G
    attributes: dict[str, Any]
    if sparse:
        places = (M.pattern if isinstance(M, SparseOperator) else None for M in matrices)
        key, _ = known(*places, problem.C.lower, problem.C.upper)
        op, attributes = "sparse_programme", {"key": key}
        matrices = tuple(map(_numbers, matrices))
    else:
        op = "quadratic_programme"
        attributes = {"lower": int(problem.C.lower), "upper": int(problem.C.upper)}
    out = call(
        engine.target(op, dtype),
        *(matrices[0], problem.q, matrices[1], problem.b, matrices[2], problem.d),
        *(problem.live, problem.fixed, jnp.asarray(rtol, dtype)),
        *(zero if start is None else start),
        out=[
            *(*point, flag(M), flag(M)),
            *([] if sparse else [number(n, n)]),
            *(count, count, flag(), number()),
        ],
        **attributes,
        max_steps=max_steps,
        warm=int(start is not None),
    )
    x, y, z, active, weak, *L, status, steps, polished, error = out
    sets = Sets(active, weak)
    L = condense(KKT.of(problem, sets)) if sparse else L[0].T  # Julia keeps columns
    return (x, y, z), status, steps, Polished(x, y, z, sets, L, polished, error)


def julia_refined(K: KKT, L, b):
    """`qp_kkt.refined` over threads, for dense matrices and no weakly active rows (of
    which the answer is not taken)."""
    if isinstance(L, SparseOperator):
        return refined(K, L, b)
    v, error = call(
        engine.target("programme_derivative", b.dtype),
        *(K.P, K.A, K.C.G, K.row, L.T, b),
        out=[jax.ShapeDtypeStruct(b.shape, b.dtype), jax.ShapeDtypeStruct((), b.dtype)],
        lower=int(K.C.lower),
        upper=int(K.C.upper),
    )
    return v, error


def _numbers(M):
    return (
        M.pattern.symmetrise(M.values) if isinstance(M, SparseOperator) else M.reshape(-1)
    )
