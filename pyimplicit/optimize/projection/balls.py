"""Projections onto Euclidean spheres and balls, on pytrees."""

from typing import Any

import jax
import jax.numpy as jnp

from ...implicit import borrow
from ..vectors import check_positive, floats, norm


def projection_l2_sphere(x, value=1.0):
    """A nearest p to x with ‖p‖₂ = value: value · x/‖x‖.

    `x`: a pytree. At x = 0 every point of the sphere is nearest: one with equal entries is
    returned, and its derivative is NaN, for there is none.

    *Derivative*: (value/‖x‖)(I - p pᵀ/value²).
    """
    check_positive("projection_l2_sphere", "value", value)
    x = floats(x)
    n = sum(a.size for a in jax.tree.leaves(x))
    if n == 0:
        raise ValueError(
            "`projection_l2_sphere(x)` needs at least one number.\nGot none.\n"
            "Pass an array, or a pytree of arrays."
        )
    zero = norm(jax.lax.stop_gradient(x)) == 0
    ones = jax.tree.map(lambda a: jnp.where(zero, jnp.full_like(a, n**-0.5), a), x)
    p = jax.tree.map(lambda a: (value / norm(ones) * a).astype(a.dtype), ones)
    t_p = jax.tree.map(
        lambda p, a: jnp.where(zero, a, p), p, x
    )  # moves with x, at zero too
    unique: Any = ~zero
    return borrow(jax.lax.stop_gradient(p), t_p, unique)


def projection_l2_ball(x, max_value=1.0):
    """argmin_p ‖p - x‖ with ‖p‖₂ ≤ max_value, on a pytree.

    *Derivative*: the identity inside and on the sphere, outside that of
    `projection_l2_sphere`.
    """
    check_positive("projection_l2_ball", "max_value", max_value)
    x = floats(x)
    length = norm(x)
    inside = length <= max_value
    factor = jnp.where(inside, 1, max_value / jnp.where(inside, 1, length))
    return jax.tree.map(lambda a: (factor * a).astype(a.dtype), x)
