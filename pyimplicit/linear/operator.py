"""Sparse matrices as lineax operators, and the direct solver as a lineax solver."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from .lineax_parts import FullRankSolver, declare
from .pattern import SparsePattern
from .solve import raw_solve


class SparseOperator(lx.AbstractLinearOperator):
    """The matrix with entries `values`, `(nnz,)`, at the places of `pattern`.

    A lineax operator: `lx.linear_solve(SparseOperator(pattern, values), b,
    SparseDirect())`, or any of lineax's iterative solvers. Differentiable in `values`.
    """

    pattern: SparsePattern = eqx.field(static=True)
    values: jax.Array
    transposed: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if jnp.shape(self.values) != (self.pattern.nnz,):
            raise ValueError(
                "`SparseOperator(values=...)` must have shape "
                f"({self.pattern.nnz},).\nGot {jnp.shape(self.values)}.\n"
                "Pass one value for each stored entry."
            )

    def mv(self, vector):
        return self.pattern.matvec(self.values, vector, self.transposed)

    def as_matrix(self):
        A = self.pattern.todense(self.values)
        return A.T if self.transposed else A

    def transpose(self):
        if self.pattern.partner is not None:
            return self
        return SparseOperator(self.pattern, self.values, not self.transposed)

    def in_structure(self):
        return self._structure(0 if self.transposed else 1)

    def out_structure(self):
        return self._structure(1 if self.transposed else 0)

    def _structure(self, axis: int):
        return jax.ShapeDtypeStruct((self.pattern.shape[axis],), self.values.dtype)


class SparseDirect(FullRankSolver):
    """Factorises a `SparseOperator` on the current engine; see `sparse_solve`.

    The transposed system, the tangents and further right-hand sides of the same matrix
    find the same factorisation.
    """

    def init(self, operator, options: dict[str, Any]):
        del options
        if not isinstance(operator, SparseOperator):
            raise TypeError(
                "`SparseDirect` solves with a SparseOperator.\n"
                f"Got {type(operator).__name__}.\n"
                "Use lineax's AutoLinearSolver for other operators."
            )
        if operator.pattern.shape[0] != operator.pattern.shape[1]:
            raise ValueError(
                "`SparseDirect` needs a square matrix.\n"
                f"Got shape {operator.pattern.shape}.\nUse lineax's Normal or LSMR."
            )
        return operator

    def compute(self, state: SparseOperator, vector, options: dict[str, Any]):
        del options
        dtype = jnp.result_type(state.values, vector)
        x, status, residual = raw_solve(
            state.pattern,
            state.values.astype(dtype),
            vector.astype(dtype),
            state.transposed,
            throw=False,
        )
        result = lx.RESULTS.where(status == 0, lx.RESULTS.successful, lx.RESULTS.singular)
        return x, result, {"status": status, "residual": residual}

    def transpose(self, state: SparseOperator, options: dict[str, Any]):
        return state.transpose(), options

    def conj(self, state: SparseOperator, options: dict[str, Any]):
        return lx.conj(state), options


declare(
    SparseOperator,
    symmetric=lambda operator: operator.pattern.partner is not None,
    definite=lambda operator: operator.pattern.structure == "spd",
)


@lx.conj.register(SparseOperator)
def _(operator):
    return SparseOperator(operator.pattern, jnp.conj(operator.values), operator.transposed)


@lx.diagonal.register(SparseOperator)
def _(operator):
    rows, cols = operator.pattern.rows, operator.pattern.cols
    (on,) = (rows == cols).nonzero()
    n = min(operator.pattern.shape)
    return jnp.zeros(n, operator.values.dtype).at[rows[on]].set(operator.values[on])
