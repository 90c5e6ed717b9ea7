"""Conjugate gradients and MINRES for symmetric matrices known by their products, in JAX.

Under `jit` they are one loop on the device, under `vmap` the samples share it, each until
it is there. Vectors are `(n,)`; `A` and `M` are functions of one, `M` close to A⁻¹,
symmetric and positive definite. Not for differentiation: see `linear/checked.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Found(NamedTuple):
    """`x`; how many `steps` it took, one product with A each; and whether no direction was
    met that shows A not to be positive definite (MINRES does not ask)."""

    x: jax.Array
    steps: jax.Array
    definite: jax.Array


def conjugate_gradients(A: Callable, M: Callable, b, tol, max_steps: int) -> Found:
    """x with ‖A x - b‖ ≤ `tol`, if round-off lets it; A positive definite.

    Source: Hestenes, Stiefel 1952, doi:10.6028/jres.049.044.
    """

    def going(carry):
        _, r, _, _, steps, definite = carry
        return (jnp.linalg.norm(r) > tol) & (steps < max_steps) & definite

    def step(carry):
        x, r, p, slope, steps, _ = carry
        product = A(p)
        curve = p @ product
        definite = (curve > 0) & (slope > 0)  # false for NaN
        length = jnp.where(definite, slope / curve, 0.0)
        x, r = x + length * p, r - length * product
        z = M(r)
        after = r @ z
        p = z + jnp.where(definite, after / slope, 0.0) * p
        return x, r, p, after, steps + 1, definite

    z = M(b)
    start = jnp.zeros_like(b), b, z, b @ z, jnp.int32(0), jnp.array(True)
    x, _, _, _, steps, definite = jax.lax.while_loop(going, step, start)
    return Found(x, steps, definite)


class _Minres(NamedTuple):
    x: jax.Array
    r: jax.Array  # b - A x
    old: jax.Array  # of Lanczos's vectors, times their lengths: the last but one,
    new: jax.Array  # and the last,
    z: jax.Array  # which M takes to this
    w: tuple[jax.Array, jax.Array]  # directions of x
    beta: jax.Array
    d: jax.Array
    epsilon: jax.Array
    left: jax.Array  # the length of r that M measures
    turn: tuple[jax.Array, jax.Array]  # cosine and sine of the last rotation
    steps: jax.Array


def minres(A: Callable, M: Callable, b, tol, max_steps: int) -> Found:
    """x with ‖A x - b‖ ≤ `tol`, if round-off lets it; A may be indefinite.

    Source: Paige, Saunders 1975, doi:10.1137/0712047.
    """
    tiny = jnp.finfo(b.dtype).tiny

    def going(s: _Minres):
        return (jnp.linalg.norm(s.r) > tol) & (s.steps < max_steps) & (s.beta > tiny)

    def step(s: _Minres):
        v = s.z / s.beta
        product = A(v) - s.old
        alpha = v @ product
        new = product - (alpha / s.beta) * s.new
        z = M(new)
        beta = jnp.sqrt(jnp.maximum(new @ z, 0.0))
        c, sn = s.turn
        delta = c * s.d + sn * alpha
        g = sn * s.d - c * alpha
        gamma = jnp.maximum(jnp.hypot(g, beta), tiny)
        c_next, s_next = g / gamma, beta / gamma
        w = (v - s.epsilon * s.w[0] - delta * s.w[1]) / gamma
        left = s_next * s.left
        unit = new / jnp.where(beta > tiny, beta, 1.0)
        return _Minres(
            x=s.x + c_next * s.left * w,
            r=s_next**2 * s.r - c_next * left * unit,
            old=(beta / s.beta) * s.new,
            new=new,
            z=z,
            w=(s.w[1], w),
            beta=beta,
            d=-c * beta,
            epsilon=sn * beta,
            left=left,
            turn=(c_next, s_next),
            steps=s.steps + 1,
        )

    zero, none = jnp.zeros_like(b), jnp.zeros((), b.dtype)
    z = M(b)
    beta = jnp.sqrt(jnp.maximum(b @ z, 0.0))
    start = _Minres(
        zero, b, zero, b, z, (zero, zero), beta, none, none, beta, (none - 1, none),
        jnp.int32(0),
    )  # fmt: skip
    s = jax.lax.while_loop(going, step, start)
    return Found(s.x, s.steps, jnp.array(True))
