"""Preconditioners of matrices known by their products: symmetric, positive definite maps
close to A⁻¹, made of products with A and its diagonal."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


LANCZOS = 10  # steps that bound the largest eigenvalue
DEGREE, SPREAD = 4, 30.0  # of the polynomial: products + 1, and what part of the spectrum


def prepare(how, A):
    """The preconditioner of the `Krylov` for the operator `A`, a function `(n,)` to `(n,)`.
    Of the transpose it is the same: the diagonal is."""
    d = jnp.abs(A.diagonal())
    inverse = 1 / jnp.where(d > 0, d, 1.0)
    if how.chosen == "diagonal":
        return Diagonal(inverse)
    return Chebyshev(A, inverse, largest_eigenvalue(A.mv, inverse), DEGREE, SPREAD)


class Diagonal(eqx.Module):
    """Division by the diagonal. `inverse`: one over its absolute values, `(n,)`."""

    inverse: jax.Array

    def __call__(self, r):
        return self.inverse * r


class Chebyshev(eqx.Module):
    """`degree` steps of Chebyshev's iteration for A z = r from zero, with the diagonal D: a
    polynomial p of D⁻¹A for which |1 - λ p(λ)| is least on [largest/spread, largest].

    Source: Saad, *Iterative methods for sparse linear systems* (2003), Algorithm 12.1;
    Adams et al. 2003, doi:10.1016/S0021-9991(03)00194-3.
    """

    A: Any
    inverse: jax.Array
    largest: jax.Array
    degree: int = eqx.field(static=True)
    spread: float = eqx.field(static=True)

    def __call__(self, r):
        return self.step(r)[0]

    def step(self, r):
        """The correction z, and r - A z but for the last step's share."""
        middle = self.largest * (1 + 1 / self.spread) / 2
        half = self.largest * (1 - 1 / self.spread) / 2
        rho = half / middle
        d = self.inverse * r / middle
        z = d
        for _ in range(self.degree - 1):
            r = r - self.A.mv(d)
            after = 1 / (2 * middle / half - rho)
            d = after * rho * d + (2 * after / half) * self.inverse * r
            z, rho = z + d, after
        return z, r


def largest_eigenvalue(product, inverse):
    """A bound from above, nearly always, for the eigenvalues of D⁻¹A: what Gershgorin's
    circles give for Lanczos's matrix, its last off-diagonal entry included.

    Source: Zhou, Li 2011, doi:10.1016/j.laa.2010.06.034 (the last entry).
    """
    root = jnp.sqrt(inverse)
    n = inverse.shape[0]
    # Irrational steps around a circle: some of every frequency, the same on each device.
    start = jnp.arange(n, dtype=inverse.dtype) * 0.6180339887498949 % 1.0 - 0.5
    tiny = jnp.finfo(inverse.dtype).tiny

    def step(carry, _):
        old, v, beta, bound = carry
        w = root * product(root * v) - beta * old
        alpha = v @ w
        w = w - alpha * v
        after = jnp.linalg.norm(w)
        bound = jnp.maximum(bound, beta + jnp.abs(alpha) + after)
        return (v, w / jnp.maximum(after, tiny), after, bound), None

    zero = jnp.zeros((), inverse.dtype)
    carry = jnp.zeros_like(start), start / jnp.linalg.norm(start), zero, zero
    carry, _ = jax.lax.scan(step, carry, None, length=LANCZOS)
    return 1.05 * carry[-1]
