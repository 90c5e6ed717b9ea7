"""Conjugate gradients for one step, inside `jit`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def steihaug_cg(
    apply: Callable, b, precondition: Callable, rtol, max_steps: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Solves A s = b from s = 0 by preconditioned conjugate gradients.

    `apply`: v -> A v, symmetric. `b`: `(n,)`. `precondition`: v -> M⁻¹ v, positive
    definite; its scale does not matter. Stops when the residual's norm, in the inner
    product of M⁻¹, is `rtol` of what it was, after `max_steps`, or at a direction whose
    curvature is not positive: then `s` is the iterate before it, or M⁻¹ b if there is
    none. Either way `s` is a direction of descent for the quadratic 1/2 sᵀAs - bᵀs.

    **Returns** `s`, the number of iterations, and whether a curvature was not positive.

    ??? cite "Reference"
        Steihaug, *The conjugate gradient method and trust regions in large scale
        optimization*, SIAM J. Numer. Anal. 20 (1983). doi:10.1137/0720042
    """
    z = precondition(b)
    rz0 = b @ z

    def unfinished(state):
        k, _, _, _, rz, stop = state
        return (k < max_steps) & ~stop & (rz > rtol**2 * rz0)

    def body(state):
        k, s, r, p, rz, _ = state
        Ap = apply(p)
        curvature = p @ Ap
        stop = ~(curvature > 0)  # also where it is NaN
        alpha = rz / jnp.where(stop, 1, curvature)
        r_next = r - alpha * Ap
        z = precondition(r_next)
        rz_next = r_next @ z
        s_next = jnp.where(stop, jnp.where(k == 0, p, s), s + alpha * p)
        return k + 1, s_next, r_next, z + (rz_next / rz) * p, rz_next, stop

    start = (jnp.array(0), jnp.zeros_like(b), b, z, rz0, jnp.array(False))
    k, s, *_, stop = jax.lax.while_loop(unfinished, body, start)
    return s, k, stop
