"""Linear programmes as layers."""

from typing import Any

import jax.numpy as jnp

from ..linear.operator import SparseOperator
from .cone_host import Clarabel
from .qp import InteriorPoint, QPSolution, qp
from .qp_degenerate import Degenerate


def lp(
    c: Any,
    A: Any = None,
    b: Any = None,
    G: Any = None,
    h: Any = None,
    lb: Any = None,
    ub: Any = None,
    *,
    solver: InteriorPoint | Clarabel | None = None,
    degenerate: Degenerate = "least_norm",
    init: QPSolution | None = None,
    throw: bool = True,
) -> QPSolution:
    """Solves  min cᵀx  subject to  A x = b,  G x ≤ h,  lb ≤ x ≤ ub.

    **Arguments:** `c`: `(n,)`; all others, and the solution, as in `pi.qp`.

    **Returns:** a `QPSolution`. Where the optimum is a face and no vertex, a point inside
    the face with a strictly complementary multiplier (the analytic centre's, to solver
    tolerance).

    **Derivative:** at a vertex x moves with b, h, lb and ub, and not with c: its derivative
    in c is *zero*, and exact. To learn costs smooth the programme: `degenerate=
    pi.Smoothed(mu)`, a small quadratic term with `pi.qp`, or `pi.perturbed`.
    """
    c = jnp.asarray(c)
    sparse = any(isinstance(M, SparseOperator) for M in (A, G))
    P = None if sparse else jnp.zeros((c.size, c.size), c.dtype)
    how: Any = {"solver": solver, "degenerate": degenerate, "init": init, "throw": throw}
    return qp(P, c, A, b, G, h, lb, ub, **how)
