r"""Sparse relatives of the softmax.

α-entmax maximises ⟨p, x⟩ + H_α(p) over the simplex, H_α the Tsallis entropy: α = 1 is the
softmax, α = 2 the sparsemax, the projection onto the simplex.
"""

import jax
import jax.numpy as jnp

from ..implicit import attach
from .projection.simplex import projection_simplex
from .vectors import floats


def sparsemax(x, axis=-1):
    """The projection of x onto the simplex, along `axis`.

    *Derivative*: diag(m) - m mᵀ/|A|, m the indicator of the support A; at a kink see
    `projection.projection_simplex`.

    Source: Martins, Astudillo 2016, arXiv:1602.02068.
    """
    return _along(projection_simplex, "sparsemax", x, axis)


def entmax(x, alpha=1.5, axis=-1):
    r"""α-entmax: pᵢ = max((α - 1) xᵢ - τ, 0)^(1/(α - 1)), with the τ that makes Σ p = 1.

    **Arguments:**

    - `x`: an array; entries of -∞ get p = 0.
    - `alpha`: a number above 1, differentiated (an array holds none that is 1); exactly
      the Python number 1 means the softmax.
    - `axis`: along which p sums to 1.

    **Returns:** p, like x. NaN where α < 1.

    **Derivative:** in x and α, of Σ p = 1 by the implicit function theorem, the support
    held; for α < 2 p is smooth in x where it leaves the support, for α = 2 it has a kink.

    ??? cite "Reference"
        Peters, Niculae, Martins, *Sparse sequence-to-sequence models* (2019).
        arXiv:1905.05702
    """
    if isinstance(alpha, int | float):
        if not alpha >= 1:
            raise ValueError(
                f"`entmax(alpha=...)` must be at least 1.\nGot {alpha}.\n"
                "1 is the softmax, 2 the sparsemax; above 2 the answer is sparser still."
            )
        if alpha == 1:
            return jax.nn.softmax(floats(x), axis)
    return _along(lambda v: _entmax(v, jnp.asarray(alpha, v.dtype)), "entmax", x, axis)


@jax.jit
def _entmax(x, alpha):
    x = x - jax.lax.stop_gradient(jnp.max(x))
    tau, support = _threshold(*jax.lax.stop_gradient((x, alpha)))

    def power(tau, x, alpha):
        base = jnp.where(support, (alpha - 1) * jnp.where(support, x, 0) - tau, 1)
        return jnp.where(support, base ** (1 / (alpha - 1)), 0)

    tau = attach(tau, lambda tau, p: jnp.sum(power(tau, *p)) - 1, (x, alpha))
    p = power(tau, x, alpha)
    return jnp.where((alpha > 1) & ~jnp.any(jnp.isnan(x)), p, jnp.nan)


def _threshold(x, alpha):
    """τ and the support, for max x = 0, by bisection between Σ p ≥ 1 and Σ p ≤ 1, and one
    step of Newton's method on the support that is then known."""
    z = (alpha - 1) * x
    exponent = 1 / (alpha - 1)
    above = lambda tau: jnp.maximum(z - tau, 0)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        big = jnp.sum(above(middle) ** exponent) >= 1
        return jnp.where(big, middle, low), jnp.where(big, high, middle)

    ends = -jnp.ones_like(alpha), -(x.size ** (1 - alpha))
    low, high = jax.lax.fori_loop(0, jnp.finfo(x.dtype).nmant + 2, halve, ends)
    support = z > low
    base = jnp.where(support, z - low, 1)
    total = jnp.sum(jnp.where(support, base**exponent, 0))
    slope = exponent * jnp.sum(jnp.where(support, base ** (exponent - 1), 0))
    step = jnp.where(alpha < 2, (total - 1) / slope, high - low)
    return low + jnp.clip(step, 0, high - low), support


def _along(function, name: str, x, axis: int):
    x = floats(jnp.asarray(x))
    if not isinstance(axis, int) or not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"`{name}(axis=...)` must be an axis of x, which has {x.ndim}.\nGot {axis!r}.\n"
            "The default is the last."
        )
    rows = jnp.moveaxis(x, axis, -1)
    p = jax.vmap(function)(rows.reshape(-1, rows.shape[-1])).reshape(rows.shape)
    return jnp.moveaxis(p, -1, axis)
