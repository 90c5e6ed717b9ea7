r"""Projections onto simplices and ℓ₁ balls.

The projection onto {p ≥ 0, Σp = s} is p = max(x - τ, 0), with the τ that makes the sum
right. Once the support A = {x > τ} is known, τ = (Σ_A x - s)/|A|, and p is an affine
function of x and s: so A is found without derivatives, and JAX differentiates the affine
function. The Jacobian is diag(m) - m mᵀ/|A|, m the indicator of A, in both modes; the
second derivatives are zero, as they should be.

At a kink (x_i = τ exactly) i does not belong to A: one of the one-sided derivatives.
"""

import jax
import jax.numpy as jnp

from ..vectors import check_positive, vector


def projection_simplex(x, value=1.0):
    """argmin_p ‖p - x‖ with p ≥ 0, Σ p = value.

    **Arguments:**

    - `x`: `(n,)`; entries of -∞ get p = 0.
    - `value`: the sum; differentiated.

    **Returns:** p, `(n,)`. NaN if `value` is negative or x holds NaN or +∞.

    **Derivative:** ṗ = m (ẋ - mean of ẋ over the support + v̇/|A|), see above.

    **Errors:** `ValueError` on other shapes, or a number `value` that is not positive.

    **Cost:** some ten passes over x (Newton's method for τ, which ends after finitely many
    steps, started where only entries within `value` of the largest are left).

    ??? cite "Reference"
        Michelot, *A finite algorithm for finding the projection of a point onto the
        canonical simplex of Rⁿ* (1986). doi:10.1007/BF00938486. Condat, *Fast projection
        onto the simplex and the ℓ₁ ball* (2016). doi:10.1007/s10107-015-0946-6
    """
    return _simplex("projection_simplex", x, value)


def _simplex(name: str, x, value):
    x = vector(name, x)
    value = 1.0 if value is None else value
    check_positive(name, "value", value)
    return _project(x, jnp.asarray(value, x.dtype))


@jax.jit
def _project(x, value):
    x = x - jax.lax.stop_gradient(jnp.max(x))  # no change of p; small numbers add up better
    support = _support(*jax.lax.stop_gradient((x, value)))
    count = jnp.maximum(jnp.sum(support), 1)
    tau = (jnp.sum(jnp.where(support, x, 0)) - value) / count
    p = jnp.where(support, jnp.where(x > tau, x - tau, 0), 0)
    ok = (value >= 0) & jnp.isfinite(tau) & ~jnp.any(jnp.isnan(x))
    return jnp.where(ok, p, jnp.nan)


def _support(x, value):
    """{x > τ}, for max x = 0. φ(τ) = Σ max(x - τ, 0) - s is convex and falls; Newton's
    method from the left goes up to its root, and each step takes entries out of {x > τ},
    or is the last."""

    def step(carry):
        tau, count, _ = carry
        above = x > tau
        now = jnp.sum(above)
        newton = (jnp.sum(jnp.where(above, x, 0)) - value) / jnp.maximum(now, 1)
        return jnp.maximum(tau, newton), now, count

    start = jnp.maximum(-value, (jnp.sum(x) - value) / x.size)
    going = lambda carry: carry[1] != carry[2]
    tau, *_ = jax.lax.while_loop(going, step, step((start, -1, -2)))
    return x > tau


def projection_sparse_simplex(x, max_nz, use_approx_max_nz=False, value=1.0):
    """argmin_p ‖p - x‖ with p ≥ 0, Σ p = value and at most `max_nz` nonzero entries.

    The projection onto the simplex of the `max_nz` largest entries (of equal ones, the
    first). The set is not convex, and where entries are equal the answer jumps.

    - `use_approx_max_nz`: find them by `jax.lax.approx_max_k` (exact on CPU and GPU).
    - `x`, `value`, errors, derivative: as `projection_simplex`.

    ??? cite "Reference"
        Kyrillidis, Becker, Cevher, Koch, *Sparse projections onto the simplex* (2013).
        arXiv:1206.1529
    """
    x = vector("projection_sparse_simplex", x)
    if not isinstance(max_nz, int) or not 0 < max_nz <= x.size:
        raise ValueError(
            f"`projection_sparse_simplex(max_nz=...)` must be an integer in 1..{x.size}.\n"
            f"Got {max_nz!r}.\nWith max_nz=n it is projection_simplex."
        )
    largest = jax.lax.approx_max_k if use_approx_max_nz else jax.lax.top_k
    _, where = largest(jax.lax.stop_gradient(x), max_nz)
    p = _simplex("projection_sparse_simplex", x[where], value)
    return jnp.zeros_like(x).at[where].set(p)


def projection_l1_sphere(x, value=1.0):
    """A nearest p to x with ‖p‖₁ = value.

    p = s ∘ (projection of |x| onto the simplex), s the signs of x; for an entry 0, s = 1,
    so that p lies on the sphere (x = 0 has many nearest points). `x`: `(n,)`.

    *Derivative*: diag(|t|) - t tᵀ/‖t‖₁ with t = s on the support of p, else 0.
    """
    x = vector("projection_l1_sphere", x)
    sign = jnp.where(x < 0, -1, 1).astype(x.dtype)
    return sign * _simplex("projection_l1_sphere", sign * x, value)


def projection_l1_ball(x, max_value=1.0):
    """argmin_p ‖p - x‖ with ‖p‖₁ ≤ max_value.

    `x`: `(n,)`. *Derivative*: the identity inside and on the sphere, outside that of
    `projection_l1_sphere`.
    """
    x = vector("projection_l1_ball", x)
    check_positive("projection_l1_ball", "max_value", max_value)
    inside = jnp.sum(jnp.abs(x)) <= max_value
    return jnp.where(inside, x, projection_l1_sphere(x, max_value))
