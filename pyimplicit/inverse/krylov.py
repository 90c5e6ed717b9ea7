"""Krylov spaces of one step, inside `jit`."""

import functools
from collections.abc import Callable
from typing import NamedTuple

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


class Bidiagonal(NamedTuple):
    """J V = U B so far. `U`: `(data, room)`, orthonormal. `V`: `(n, room)`, orthonormal
    in R. `alpha`, `gamma`: the diagonal and, from entry 1, the subdiagonal of B, `(room,)`;
    entry 0 of `gamma` is |d|. `w`: R times the last v. `k`: the size of B so far."""

    U: jax.Array
    V: jax.Array
    alpha: jax.Array
    gamma: jax.Array
    w: jax.Array
    k: jax.Array


def bidiagonal_start(d, pulled, solved, room: int) -> Bidiagonal:
    """The first vectors, u₁ = d/|d| and v₁ ~ R⁻¹Jᵀd; room for `room - 1` steps.

    `pulled`, `solved`: Jᵀd and R⁻¹Jᵀd, `(n,)`.
    """
    zeros = functools.partial(jnp.zeros, dtype=d.dtype)
    norm = jnp.linalg.norm(d)
    energy = jnp.sqrt(jnp.maximum(jnp.vdot(solved, pulled), 0))  # |v| before scaling
    return Bidiagonal(
        zeros((d.size, room)).at[:, 0].set(_divide(d, norm)),
        zeros((solved.size, room)).at[:, 0].set(_divide(solved, energy)),
        zeros(room).at[0].set(_divide(energy, norm)),
        zeros(room).at[0].set(norm),
        _divide(pulled, energy),
        jnp.array(0),
    )


def enlarge(basis: Bidiagonal) -> Bidiagonal:
    """The same with twice the room."""
    room = len(basis.alpha)
    wide = lambda a: jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, room)])
    return basis._replace(
        U=wide(basis.U), V=wide(basis.V), alpha=wide(basis.alpha), gamma=wide(basis.gamma)
    )


def bidiagonalise(
    push: Callable, pull: Callable, solve: Callable, start: Bidiagonal, steps: int
) -> Bidiagonal:
    """`steps` more columns of the Golub-Kahan bidiagonalisation of J in the inner
    product of R; `push` is v -> J v, `pull` is u -> Jᵀu, `solve` is R⁻¹.

    After it, `alpha[k]` and `gamma[k]` belong to the next column, so that their product
    measures what the space leaves out. The left vectors are orthogonalised in full,
    which keeps both sides orthogonal.

    ??? cite "Reference"
        Simon, Zha, *Low-rank matrix approximation using the Lanczos bidiagonalization
        process*, SIAM J. Sci. Comput. 21 (2000). doi:10.1137/S1064827597327309
    """

    def body(_, basis):
        U, V, alpha, gamma, w, k = basis
        least = 100 * jnp.finfo(w.dtype).eps * alpha[0]  # below is round-off
        u = push(V[:, k]) - alpha[k] * U[:, k]
        for _ in range(2):
            u = u - U @ (U.T @ u)
        norm = jnp.linalg.norm(u)
        u = _divide(u, norm, least)
        w = pull(u) - norm * w  # R v, so that |v|² = v·w
        v = solve(w)
        energy = jnp.sqrt(jnp.maximum(jnp.vdot(v, w), 0))
        return Bidiagonal(
            U.at[:, k + 1].set(u),
            V.at[:, k + 1].set(_divide(v, energy, least)),
            alpha.at[k + 1].set(energy),
            gamma.at[k + 1].set(norm),
            _divide(w, energy, least),
            k + 1,
        )

    return jax.lax.fori_loop(0, steps, body, start)


def _divide(vector, norm, least=0.0):
    """The vector over its norm; zero where the space is exhausted."""
    use = norm > jnp.maximum(least, jnp.finfo(vector.dtype).tiny)
    return jnp.where(use, vector / jnp.where(use, norm, 1), 0)
