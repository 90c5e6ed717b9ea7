"""Numbers that users give, as arrays."""

import jax
import jax.numpy as jnp
import numpy as np


def as_numbers(value, what: str) -> jax.Array:
    """`value` as an array of floating point or complex numbers. Python numbers stay
    weakly typed: they take the precision of what they meet."""
    if type(value) is int:
        value = float(value)
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError):
        array = jnp.zeros(0, bool)
    if jnp.issubdtype(array.dtype, jnp.inexact):
        return array
    if jnp.issubdtype(array.dtype, jnp.integer):
        return array.astype(float)
    got = "booleans" if isinstance(value, bool | jax.Array) else type(value).__name__
    raise TypeError(
        f"{what} must be a number, an array of numbers or a function of x.\n"
        f"Got {got}.\nPass e.g. 1.0."
    )


def common_dtype(arrays):
    """The common precision; Python numbers do not count, nothing means the default."""
    strong = [a for a in arrays if not a.weak_type]
    dtype = jnp.result_type(*strong) if strong else jnp.result_type(float)
    if any(jnp.iscomplexobj(a) for a in arrays):
        dtype = np.result_type(dtype, np.complex64)
    return dtype
