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
    tiny = float(jnp.finfo(y.dtype).tiny)  # no change is within any tolerance, also zero
    scaled = change / jnp.maximum(atol + rtol * jnp.abs(y), tiny)
    return jnp.sqrt(jnp.sum(scaled * scaled) / max(y.size, 1))


def length(v) -> jax.Array:
    """The Euclidean norm of a vector; not differentiated."""
    v = jax.lax.stop_gradient(v)
    return jnp.sqrt(jnp.sum(v * v))


def where(which, new, old):
    """`jnp.where` on pytrees."""
    return jax.tree.map(lambda new, old: jnp.where(which, new, old), new, old)
