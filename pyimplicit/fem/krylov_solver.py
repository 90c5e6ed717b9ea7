"""`Krylov` as a lineax solver, for the systems of Newton's method and its derivative."""

from typing import Any

import equinox as eqx
import lineax as lx

from ..linear import SparseOperator
from ..linear.lineax_parts import FullRankSolver
from .krylov import Krylov, raw_krylov
from .matrix_free import ElementOperator, run
from .preconditioners import prepare


class KrylovSolver(FullRankSolver):
    """Solves with an `ElementOperator` in JAX, with a `SparseOperator` on the host."""

    how: Krylov = eqx.field(static=True)

    def init(self, operator: SparseOperator | ElementOperator, options: dict[str, Any]):
        del options
        if isinstance(operator, ElementOperator):
            return operator, prepare(self.how, operator)
        return operator, None

    def compute(self, state, vector, options: dict[str, Any]):
        del options
        operator, M = state
        if isinstance(operator, ElementOperator):
            x, status, error, steps = run(operator, M, vector, self.how)
            stats = {"residual": error, "num_steps": steps}
        else:
            x, status, error = raw_krylov(
                operator.pattern, operator.values, vector, self.how, operator.transposed,
                throw=False,
            )  # fmt: skip
            stats = {"residual": error}
        result = lx.RESULTS.where(status == 0, lx.RESULTS.successful, lx.RESULTS.breakdown)
        return x, result, stats

    def transpose(self, state, options: dict[str, Any]):
        operator, M = state
        return (operator.transpose(), M), options

    def conj(self, state, options: dict[str, Any]):
        return state, options
