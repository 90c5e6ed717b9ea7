"""Priors: what is known of the model before the data, as a quadratic form."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree


class AbstractPrior(eqx.Module):
    """A penalty 1/2 (m - m̂)ᵀ R (m - m̂) with a precision R that can be inverted.

    `value(m)` must be a JAX function. `apply(v)` is R v and `solve(v)` is R⁻¹ v; the
    second preconditions the steps of `fit`, which makes their number independent of
    the mesh. `m` and `v` have the structure of the model. A penalty that is not quadratic
    says by `at` what R it has near a model.
    """

    @abc.abstractmethod
    def value(self, m) -> jax.Array:
        """The penalty, a scalar."""

    @abc.abstractmethod
    def apply(self, v) -> Any:
        """R v."""

    @abc.abstractmethod
    def solve(self, v) -> Any:
        """R⁻¹ v: the Riesz map of the prior's inner product."""

    def gradient(self, m) -> Any:
        """The derivative of `value`, R (m - m̂)."""
        return jax.grad(self.value)(m)

    def at(self, m) -> "AbstractPrior":
        """The quadratic prior that stands for this one near m: itself, if it is one."""
        del m
        return self

    def sample(self, key, like) -> Any:
        """A draw of m - m̂, normal with covariance R⁻¹, in the structure of `like`."""
        raise NotImplementedError(
            f"`{type(self).__name__}.sample` must be written to draw samples.\n"
            "Got a prior without it.\nUse GaussianPrior, H1Prior or BiLaplacianPrior."
        )


class GaussianPrior(AbstractPrior):
    """Independent or correlated normal numbers: R given as it is.

    `precision`: R as a positive number, a vector (its diagonal) or a matrix of the size
    of the flattened model. [1/m²] `reference`: m̂, a number or a model; 0 if not given.
    """

    precision: jax.Array
    reference: Any = 0.0

    def __init__(self, precision: Any = 1.0, reference: Any = 0.0):
        self.precision = jnp.asarray(precision, float)
        self.reference = reference
        if self.precision.ndim > 2 or not _positive(self.precision):
            raise ValueError(
                "`GaussianPrior(precision=...)` must be a positive number, a vector of "
                "them, or a symmetric positive definite matrix.\n"
                f"Got shape {self.precision.shape}, smallest (eigen)value not above 0.\n"
                "Pass 1/standard_deviation**2, or the inverse of a covariance."
            )

    def value(self, m):
        d = self._difference(m)
        return 0.5 * jnp.vdot(d, self._times(d))

    def apply(self, v):
        flat, unravel = ravel_pytree(v)
        return unravel(self._times(flat))

    def solve(self, v):
        flat, unravel = ravel_pytree(v)
        if self.precision.ndim < 2:
            return unravel(flat / self.precision)
        return unravel(jax.scipy.linalg.solve(self.precision, flat, assume_a="pos"))

    def sample(self, key, like):
        flat, unravel = ravel_pytree(like)
        xi = jax.random.normal(key, flat.shape, flat.dtype)
        if self.precision.ndim < 2:
            return unravel(xi / jnp.sqrt(self.precision))
        root = jnp.linalg.cholesky(self.precision)  # R = L Lᵀ, so L⁻ᵀ ξ has R⁻¹
        return unravel(jax.scipy.linalg.solve_triangular(root, xi, lower=True, trans=1))

    def _times(self, d):
        return self.precision @ d if self.precision.ndim == 2 else self.precision * d

    def _difference(self, m):
        leaves = jax.tree.leaves(self.reference)
        number = len(leaves) == 1 and jnp.ndim(leaves[0]) == 0
        reference = leaves[0] if number else ravel_pytree(self.reference)[0]
        return ravel_pytree(m)[0] - reference


def _positive(precision) -> bool:
    if precision.ndim < 2:
        return bool(jnp.all(precision > 0))
    symmetric = jnp.allclose(precision, precision.T)
    return bool(symmetric & jnp.all(jnp.linalg.eigvalsh(precision) > 0))
