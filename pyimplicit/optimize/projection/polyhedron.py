"""Projection onto a polyhedron: a quadratic programme."""

import jax.numpy as jnp

from ..qp import qp
from ..vectors import vector


def projection_polyhedron(x, hyperparams, check_feasible=True):
    """argmin_p ‖p - x‖ with A p = b, G p ≤ h.

    **Arguments:**

    - `x`: `(n,)`.
    - `hyperparams`: `(A, b, G, h)`: `(m, n)`, `(m,)`, `(k, n)`, `(k,)`; None for what
      is not there. All differentiated.
    - `check_feasible`: raise at run time if the polyhedron is empty (also under jit).
      False: NaN.

    **Derivative:** of `pi.qp`, whose active rows are held; in x the projection onto their
    null space.

    **Errors:** as `pi.qp`.
    """
    x = vector("projection_polyhedron", x)
    if not isinstance(hyperparams, tuple | list) or len(hyperparams) != 4:
        raise ValueError(
            "`projection_polyhedron(x, hyperparams)` takes hyperparams = (A, b, G, h).\n"
            f"Got {type(hyperparams).__name__}.\nPass None for matrices that are not there."
        )
    eye = jnp.eye(x.size, dtype=x.dtype)
    return qp(eye, -x, *hyperparams, throw=bool(check_feasible)).x
