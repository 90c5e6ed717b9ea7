"""When an iteration is there: one measure for all solvers."""

from typing import Any

import jax
import jax.numpy as jnp


def tolerances(solver: Any, dtype) -> tuple[Any, Any]:
    """`(rtol, atol)` of a solver; by default ε^0.6 each (4e-10 in double precision, 7e-5
    in single): a digit or two above what round-off leaves of a well-posed problem."""
    default = float(jnp.finfo(dtype).eps) ** 0.6
    rtol, atol = solver.rtol, solver.atol
    return default if rtol is None else rtol, default if atol is None else atol


def scaled_size(solver: Any, change, y) -> jax.Array:
    """The root mean square of `change / (atol + rtol |y|)`, vectors `(n,)`: below 1 the
    change is within tolerance. Not differentiated."""
    change, y = jax.lax.stop_gradient((change, y))
    rtol, atol = tolerances(solver, y.dtype)
    scaled = change / (atol + rtol * jnp.abs(y))
    return jnp.sqrt(jnp.sum(scaled * scaled) / max(y.size, 1))
