"""Run-time status of a solve: what happened, as a value that lives in arrays.

The members and their numbers are shared with `julia/src/status.jl`; a test holds
them equal. Their messages name causes and the knob to turn.
"""

import enum
from typing import Any, NamedTuple


class Status(enum.IntEnum):
    """What became of a solve. Arrays of these are `int32`; 0 is success."""

    converged = 0
    singular = 1
    not_positive_definite = 2
    nonfinite = 3
    inaccurate = 4
    max_steps_reached = 5
    diverged = 6
    not_symmetric = 7
    infeasible = 8
    unbounded = 9

    @property
    def message(self) -> str:
        """Causes (a), (b), … and what to try, one paragraph."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.converged: "the solve converged",
    Status.singular: (
        "the matrix is singular to working precision: (a) no Dirichlet condition fixes "
        "the constant (or a rigid motion): name one, or ground one node; (b) an unknown "
        "appears in no equation; (c) a coefficient is zero somewhere; (d) a Jacobian at "
        "an iterate: start elsewhere"
    ),
    Status.not_positive_definite: (
        "the matrix was declared 'spd' but is not positive definite: (a) a negative "
        "coefficient; (b) no Dirichlet condition; (c) the matrix is indefinite or not "
        "symmetric: declare structure='symmetric' or 'general'"
    ),
    Status.nonfinite: (
        "NaN or infinity came up: (a) in what was given (a matrix, a right-hand side, a "
        "first guess, parameters): look with jax.config.update('jax_debug_nans', True); "
        "(b) in an iterate that ran away, or where a Jacobian was singular: start "
        "elsewhere, or damp the solver"
    ),
    Status.inaccurate: (
        "the residual of a linear solve stayed above its tolerance: (a) the matrix is too "
        "badly scaled or conditioned: rescale the unknowns; (b) an iterative solver was "
        "stopped: raise its `max_steps`, or give it a preconditioner"
    ),
    Status.not_symmetric: (
        "the values of a symmetric pattern differ across the diagonal: declare "
        "structure='general'"
    ),
    Status.max_steps_reached: (
        "the largest number of steps was reached: (a) it converges slowly: raise "
        "`max_steps`, or take another solver; (b) there is no solution, or none near the "
        "first guess; (c) `rtol` and `atol` ask for more than the precision gives"
    ),
    Status.diverged: (
        "the iteration diverged: (a) it is no contraction: damp it, or take another "
        "solver; (b) the first guess is too far: start closer"
    ),
    Status.infeasible: (
        "no point satisfies all constraints (the multipliers returned are a ray that "
        "proves it): (a) lb > ub somewhere; (b) contradictory rows: drop some, or give "
        "them a slack variable with a penalty"
    ),
    Status.unbounded: (
        "the objective has no lower bound on the feasible set (the point returned is a "
        "ray along which it falls for ever): (a) a bound is missing; (b) a sign of the "
        "objective is wrong"
    ),
}


class Solution(NamedTuple):
    """What a solve returns.

    `value`: the answer; where the solve failed, the last iterate or NaN, and derivatives
    are NaN. `status`: `int32`, one `Status` per sample. `stats`: a dict of arrays per
    sample ("residual", "iterations", …).
    """

    value: Any
    status: Any
    stats: dict[str, Any]
