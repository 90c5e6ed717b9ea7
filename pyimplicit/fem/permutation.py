"""Arrays in another order, where the derivative is as cheap as the array.

JAX transposes x[order] to a sum by places, which XLA does number by number on a CPU, and
into an array that it clears first. Where `order` is a permutation, nothing is summed: the
transpose is x̄ = ȳ[inverse]. To JAX, y = P x is therefore the solution of Pᵀ y = x, whose
transpose is named, and which can be differentiated any number of times.
"""

import jax
import numpy as np

from .space import on_device, opaque


class Permutation:
    """y = x[order] along the first axis. `order`: each of 0..n-1 once."""

    def __init__(self, order: np.ndarray):
        inverse = np.empty_like(order)
        inverse[order] = np.arange(len(order))
        self._places = on_device(order), on_device(inverse)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x `(n, ...)` in this order."""
        return _taken(x, *map(opaque, self._places))

    def back(self, y: jax.Array) -> jax.Array:
        """x from y: the inverse, which is the transpose."""
        return _taken(y, *map(opaque, reversed(self._places)))


def _taken(x, order, inverse):
    return jax.lax.custom_linear_solve(
        lambda y: y[inverse], x, lambda _, x: x[order], lambda _, y: y[inverse]
    )
