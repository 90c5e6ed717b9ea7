r"""A minimum on some nodes, judged on others.

On any nodes an energy has no lower bound: a function that jumps between them pays nothing
for its slope. Let y minimise f, an energy on one rule, with Hessian H; g is the energy on
another. A Newton step for g from y would change y by H⁻¹∇g, and ẏ, the derivative along ṗ,
by H⁻¹ d/dε ∇g(y + εẏ, p + εṗ), both zero if the rules agree. Directions that are cheap on
the first rule only have a large ∇g over a small H: they cannot hide.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp


def apart(f: Callable, g: Callable, y, params, size) -> jax.Array:
    """By how much g's minimum differs from y, f's, and its derivative along one direction
    of the parameters from that of y, relative to `size`, the norm of what y stands for.

    `f`, `g`: `(y, params) -> scalar`. NaN where the Hessian of f is not positive definite.
    """
    moving, still = eqx.partition(params, eqx.is_inexact_array)
    slope = lambda fn: lambda y, p: jax.grad(fn)(y, eqx.combine(p, still))
    _, push_f = jax.linearize(slope(f), y, moving)
    slope_g, push_g = jax.linearize(slope(g), y, moving)
    rest, t = jax.tree.map(jnp.zeros_like, moving), _direction(moving)
    H = jax.vmap(lambda e: push_f(e, rest))(jnp.eye(y.size, dtype=y.dtype))
    factor = jax.scipy.linalg.cho_factor((H + H.T) / 2)
    solve = lambda b: jax.scipy.linalg.cho_solve(factor, b)
    dual = lambda b: jnp.sqrt(jnp.maximum(b @ solve(b), 0.0))  # |H⁻¹b| in the norm of H
    load = push_f(jnp.zeros_like(y), t)
    off = push_g(-solve(load), t)
    return jnp.maximum(dual(slope_g) / size, dual(off) / (dual(load) + size))


def _direction(params):
    """Random signs, times the size of each array (one, if it is zero)."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))

    def signs(key, a):
        size = jnp.sqrt(jnp.mean(jnp.abs(a) ** 2))
        return jax.random.rademacher(key, a.shape, a.dtype) * jnp.where(size > 0, size, 1)

    both = zip(keys, leaves, strict=True)
    return jax.tree.unflatten(structure, [signs(key, a) for key, a in both])
