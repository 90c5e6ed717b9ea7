"""Projections that act on each coordinate by itself."""

import numbers

import jax
import jax.numpy as jnp
import numpy as np

from ..vectors import check_positive, floats, spread


def projection_non_negative(x, hyperparams=None):
    """argmin_p ‖p - x‖ with p ≥ 0: max(x, 0).

    `x`: a pytree. `hyperparams`: not used.

    *Derivative*: 1 where x > 0, else 0 (also at x = 0).
    """
    del hyperparams
    return jax.tree.map(lambda a: jnp.where(a <= 0, 0, a), floats(x))


def projection_box(x, hyperparams):
    """argmin_p ‖p - x‖ with lower ≤ p ≤ upper.

    **Arguments:**

    - `x`: a pytree.
    - `hyperparams`: `(lower, upper)`, numbers or pytrees like x; may be infinite.

    **Derivative:** in x, 1 strictly between the bounds; in a bound, 1 where p lies on it
    (also where x does: the bound wins at the kink).

    **Errors:** `ValueError` if a number or NumPy array `lower` exceeds `upper`. Traced
    bounds that cross give NaN.
    """
    lower, upper = hyperparams
    x = floats(x)
    lower, upper = spread(lower, x), spread(upper, x)
    jax.tree.map(_check_order, lower, upper)
    return jax.tree.map(_clip, x, floats(lower), floats(upper))


def projection_hypercube(x, unit=1.0):
    """argmin_p ‖p - x‖ with 0 ≤ p ≤ unit; see `projection_box`."""
    check_positive("projection_hypercube", "unit", unit)
    return projection_box(x, (0.0, unit))


def projection_linf_ball(x, max_value=1.0):
    """argmin_p ‖p - x‖ with max |p| ≤ max_value; see `projection_box`."""
    check_positive("projection_linf_ball", "max_value", max_value)
    return projection_box(x, (jax.tree.map(jnp.negative, max_value), max_value))


def _clip(x, lower, upper):
    p = jnp.where(x > lower, x, lower)
    p = jnp.where(p < upper, p, upper)
    p = jnp.where(jnp.isnan(x), x, p)
    return jnp.where(lower <= upper, p, jnp.nan)


def _check_order(lower, upper) -> None:
    known = numbers.Number | np.ndarray
    if isinstance(lower, known) and isinstance(upper, known) and np.any(lower > upper):
        raise ValueError(
            "`projection_box(x, (lower, upper))` needs lower ≤ upper.\n"
            f"Got lower={lower}, upper={upper}.\nSwap them."
        )
