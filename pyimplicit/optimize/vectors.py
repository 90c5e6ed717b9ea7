"""What projections and proximal operators share: arrays in, norms, checks of arguments."""

import jax
import jax.numpy as jnp

from .._tree import arrays


def floats(tree):
    """`tree` with its numbers as floating arrays."""
    raise_int = lambda a: a if jnp.issubdtype(a.dtype, jnp.inexact) else a.astype(float)
    return jax.tree.map(raise_int, arrays(tree))


def vector(name: str, x) -> jax.Array:
    """`x` as a floating array of one axis, or a clear error."""
    x = jnp.asarray(x)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(
            f"`{name}(x)` takes a vector, an array of shape (n,) with n > 0.\n"
            f"Got shape {x.shape}.\nFor a batch use jax.vmap; for one vector, x.ravel()."
        )
    return floats(x)


def matrix(name: str, argument: str, X) -> jax.Array:
    """`X` as a floating array of two axes, or a clear error."""
    X = jnp.asarray(X)
    if X.ndim != 2 or X.size == 0:
        raise ValueError(
            f"`{name}({argument}=...)` must be a matrix, an array of shape (n, m).\n"
            f"Got shape {X.shape}.\nFor a batch use jax.vmap."
        )
    return floats(X)


def check_positive(name: str, argument: str, value) -> None:
    """Raises on a number that is not positive (arrays are not looked into)."""
    if isinstance(value, int | float) and not value > 0:
        raise ValueError(
            f"`{name}({argument}=...)` must be positive.\nGot {value}.\n"
            "A set of radius 0 is a point, and needs no projection."
        )


def check_like(name: str, argument: str, given, x) -> None:
    """Raises unless the pytree `given` looks like `x`."""
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    if jax.tree.structure(given) != jax.tree.structure(x) or shapes(given) != shapes(x):
        raise ValueError(
            f"`{name}`: {argument} must look like x, which is {shapes(x)}.\n"
            f"Got {shapes(given)}.\nReshape it, or use jax.vmap for a batch."
        )


def dot(x, y) -> jax.Array:
    """⟨x, y⟩ of two pytrees of one structure."""
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), x, y)
    return jax.tree.reduce(jnp.add, products)


def norm(x) -> jax.Array:
    """‖x‖₂ of a pytree. Its derivative at zero is zero (a subgradient), to any order; it
    neither overflows nor underflows."""
    leaves = [jnp.max(jnp.abs(a), initial=0) for a in jax.tree.leaves(x)]
    size = jax.lax.stop_gradient(jnp.max(jnp.stack(leaves)))
    zero = size == 0
    scale = jnp.where(zero | ~jnp.isfinite(size), 1, size)
    square = sum(jnp.sum((a / scale) ** 2) for a in jax.tree.leaves(x))
    root = jnp.sqrt(jnp.where(zero, 1, square))
    return jnp.where(zero, 0, scale * root)


def spread(hyper, x):
    """`hyper` as a pytree like x: a number goes to every leaf, a pytree stays."""
    if jax.tree.structure(hyper) != jax.tree.structure(0.0) or jnp.ndim(hyper):
        return hyper
    return jax.tree.map(lambda _: hyper, x)
