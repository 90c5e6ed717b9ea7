"""What a layer is called with, against what its parameters promise."""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


SIGNS = {
    "nonneg": ("nonnegative", lambda v: v >= 0),
    "pos": ("positive", lambda v: v > 0),
    "nonpos": ("nonpositive", lambda v: v <= 0),
    "neg": ("negative", lambda v: v < 0),
}


def checked(k: int, value, parameter, dtype):
    """Argument `k` as an array of the parameter's shape. A NaN and a sign that is not the
    parameter's are errors; where they are traced they become NaN, and the solve says so.
    (Under a wrong sign the problem need not be convex: CVXPY's form of it may have an
    optimum all the same, which is not the problem's.)"""
    value = jnp.asarray(value, dtype)
    if value.shape != parameter.shape:
        raise ValueError(
            f"the layer's argument {k} must have shape {parameter.shape}, its parameter's."
            f"\nGot {value.shape}.\nFor a batch use jax.vmap."
        )
    rules = [SIGNS[name] for name in SIGNS if parameter.attributes.get(name)]
    for rule, holds in [*rules, ("free of NaN", lambda v: v == v)]:
        if isinstance(value, Tracer):
            value = value + jnp.where(holds(value), 0.0, jnp.nan)
        elif not (good := holds(np.asarray(value))).all():  # known while one traces
            where = tuple(int(i) for i in np.argwhere(~good)[0])
            raise ValueError(
                f"the layer's argument {k} must be {rule}, as its parameter "
                f"{parameter.name()} is.\nGot {np.asarray(value)[where]} at {where}.\n"
                "Look where it comes from, or declare the parameter without a sign."
            )
    return value


def precision(values):
    """The arguments' common type."""
    dtype = jnp.result_type(float, *values)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"a CVXPY layer takes real numbers.\nGot {dtype}.\n"
            "Write complex parameters as real and imaginary parts."
        )
    return dtype
