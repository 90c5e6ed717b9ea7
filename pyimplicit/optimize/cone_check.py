"""Conic programmes as they are given: shapes, precision, what can be seen at once."""

from typing import Any

import jax.numpy as jnp
from jax.core import Tracer

from .._tree import arrays
from ..linear.operator import SparseOperator
from ..linear.pattern import SparsePattern
from .cone_host import no_bounds
from .cones import Cone
from .qp_check import check_values


def prepare(P: Any, q: Any, A: Any, b: Any, cones):
    """The arguments as floating arrays of one precision and checked shapes, operators not
    transposed; P may stay None."""
    q, b = arrays(q), arrays(b)
    P, A = (_upright(v) if _sparse(v) else arrays(v) for v in (P, A))
    cones = tuple(cones)
    for cone in cones:
        if not isinstance(cone, Cone):
            raise TypeError(
                "`cone_program(cones=...)` must be cones.\n"
                f"Got {cone!r}.\nKnown: pi.cones.Zero(dim), Nonnegative(dim), "
                "SecondOrder(dim), Exponential(), Power(alpha), PSD(n)."
            )
    shape = lambda M: M.pattern.shape if _sparse(M) else jnp.shape(M)
    if jnp.ndim(q) != 1 or jnp.ndim(b) != 1:
        raise ValueError(
            "`cone_program(q=..., b=...)` must be vectors.\n"
            f"Got shapes {jnp.shape(q)} and {jnp.shape(b)}.\nFor a batch use jax.vmap."
        )
    n, m = q.shape[0], b.shape[0]
    rows = sum(cone.dim for cone in cones)
    if rows != m or shape(A) != (m, n) or (P is not None and shape(P) != (n, n)):
        raise ValueError(
            f"`cone_program` needs P ({n}, {n}), A (m, {n}), b (m,) and cones of m rows in "
            f"all.\nGot P {None if P is None else shape(P)}, A {shape(A)}, b {b.shape}, "
            f"{rows} rows of cones.\nFor a batch use jax.vmap."
        )
    if P is not None and _sparse(P) != _sparse(A):
        raise TypeError(
            "`cone_program` takes P and A both as arrays or both as SparseOperators.\n"
            f"Got {type(P).__name__} and {type(A).__name__}.\nConvert one of them."
        )
    numbers = {"P": P, "q": q, "A": A, "b": b}
    numbers = {k: v.values if _sparse(v) else v for k, v in numbers.items()}
    numbers = {k: v for k, v in numbers.items() if v is not None}
    dtype = jnp.result_type(*numbers.values(), jnp.float32)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"`cone_program` takes real numbers.\nGot {dtype}.\nWrite complex unknowns as "
            "real and imaginary parts."
        )
    if not isinstance(b, Tracer):
        numbers["b"] = jnp.where(no_bounds(cones) & (b == jnp.inf), 0.0, b)
    check_values("cone_program", numbers, "inf in b in a row of Nonnegative")

    def cast(v):
        if _sparse(v):
            return SparseOperator(v.pattern, v.values.astype(dtype))
        return None if v is None else v.astype(dtype)

    return cast(P), cast(q), cast(A), cast(b), cones


def _sparse(M) -> bool:
    return isinstance(M, SparseOperator)


def _upright(M: SparseOperator) -> SparseOperator:
    pattern = M.pattern
    if not M.transposed or pattern.structure != "general":
        return SparseOperator(pattern, M.values)
    shape = pattern.shape[::-1]
    return SparseOperator(SparsePattern(pattern.cols, pattern.rows, shape), M.values)
