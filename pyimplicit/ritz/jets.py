"""What an energy reads of a function at a point: its jet.

`first`: u and ∇u. `with_laplacian`: u, ∇u and Δu. A jet is linear in the function, so the
second variation of ∫ e(x, jet u) dx is ∫ D²e[jet v, jet w] dx, however u depends on its
parameters.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


# Above this many coordinates the gradient of a scalar is cheaper in reverse.
FORWARD_LIMIT = 8


def first(field: Callable, x: jax.Array, dim: int) -> tuple[Any, ...]:
    """`(u, grad_u)` at one point; `grad_u` is `(*u.shape, dim)`.

    Derivatives are with respect to the first `dim` entries of `x`; what follows them are
    parameters. One linearisation, pushed along each direction; scalars of
    many coordinates go in reverse. Neither makes a Hessian when parameters are
    differentiated after.
    """
    along = lambda y: field(jnp.concatenate([y, x[dim:]]))
    y = x[:dim]
    if dim > FORWARD_LIMIT and jax.eval_shape(along, y).shape == ():
        return jax.value_and_grad(along)(y)
    u, push = jax.linearize(along, y)
    columns = jax.vmap(push, out_axes=-1)(jnp.eye(dim, dtype=x.dtype))
    return u, columns


def with_laplacian(field: Callable, x: jax.Array, dim: int) -> tuple[Any, ...]:
    """`(u, grad_u, laplacian)`: second derivatives forwards over forwards, one direction
    at a time (Taylor coefficients), so that no Hessian is made."""

    def second(direction):  # at x itself: what does not depend on it is computed once
        slope = lambda y: jax.jvp(field, (y,), (direction,))[1]
        return jax.jvp(slope, (x,), (direction,))

    along = jnp.eye(dim, len(x), dtype=x.dtype)
    slopes, curvatures = jax.vmap(second, out_axes=-1)(along)
    return field(x), slopes, curvatures.sum(axis=-1)


def flat(parts: tuple) -> jax.Array:
    """The numbers of a jet as one vector."""
    return jnp.concatenate([jnp.ravel(p) for p in parts])


def unflat(q: jax.Array, like: tuple) -> tuple:
    """The inverse of `flat`; `like` has the shapes."""
    sizes = [int(np.prod(p.shape)) for p in like]
    pieces = jnp.split(q, np.cumsum(sizes)[:-1].tolist())
    return tuple(a.reshape(p.shape) for a, p in zip(pieces, like, strict=True))
