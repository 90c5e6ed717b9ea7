"""What every operator and every solver here says to lineax."""

from collections.abc import Callable

import lineax as lx


class FullRankSolver(lx.AbstractLinearSolver):
    """A solver of square, regular systems."""

    def assume_full_rank(self) -> bool:
        return True

    def allow_dependent_columns(self, operator) -> bool:  # lineax < 0.1
        return False

    def allow_dependent_rows(self, operator) -> bool:
        return False


def declare(
    operator: type[lx.AbstractLinearOperator],
    symmetric: Callable[..., bool],
    definite: Callable[..., bool],
) -> None:
    """Answers lineax's questions about a class of operators that are as they are:
    `symmetric` and positive `definite` ask an operator, the rest is no."""
    lx.is_symmetric.register(operator, symmetric)
    lx.is_positive_semidefinite.register(operator, definite)
    for predicate in (
        lx.is_diagonal,
        lx.is_tridiagonal,
        lx.has_unit_diagonal,
        lx.is_lower_triangular,
        lx.is_upper_triangular,
        lx.is_negative_semidefinite,
    ):
        predicate.register(operator, lambda operator: False)
    for same in (lx.linearise, lx.materialise):
        same.register(operator, lambda operator: operator)
