r"""What the Jacobian J = ∂f/∂z of a cell is like, from products with it alone.

Each is named by what it computes, and is an estimate of exactly that: divide by the
number of unknowns, or by the batch, as the loss wants it.
"""

from collections.abc import Callable

import equinox.internal as eqxi
import jax
import jax.numpy as jnp

from .._tree import flatten, ravel


def jacobian_frobenius(
    cell: Callable, z, x, *args, key: jax.Array, probes: int = 1
) -> jax.Array:
    r"""An unbiased estimate of ‖∂f/∂z‖_F², f = cell(·, x, *args): Hutchinson's mean of
    ‖vᵀJ‖² over `probes` random vectors v of ±1. One product vᵀJ each.

    `z`: where, usually the equilibrium. A scalar, differentiable in all of z, x, `args` and
    the cell, any order. As a loss it keeps the equilibrium easy to find.

    ??? cite "Reference"
        Bai, Koltun, Kolter, *Stabilizing equilibrium models by Jacobian regularization*,
        ICML 2021, Eq. (6), there divided by the size of z. arXiv:2106.14342
    """
    along, y = _flat(cell, z, x, args)
    _, pull = jax.vjp(along, y)
    return _mean(lambda v: jnp.sum(pull(v)[0] ** 2), y, key, probes)


def jacobian_trace(
    cell: Callable, z, x, *args, key: jax.Array, probes: int = 1
) -> jax.Array:
    """An unbiased estimate of the trace of ∂f/∂z: Hutchinson's mean of vᵀJv. It can be
    negative without bound, so it is no regulariser by itself; it is the divergence that
    continuous normalising flows integrate.

    Arguments and derivatives as for `jacobian_frobenius`.

    Source: Hutchinson 1990, doi:10.1080/03610919008812866.
    """
    along, y = _flat(cell, z, x, args)
    product = lambda v: jax.jvp(along, (y,), (v,))[1]
    return _mean(lambda v: jnp.vdot(v, product(v)), y, key, probes)


def spectral_radius(
    cell: Callable, z, x, *args, key: jax.Array, max_steps: int = 200, rtol: float = 1e-8
) -> jax.Array:
    r"""ρ(∂f/∂z), the largest |eigenvalue|, by power iteration with two vectors.

    Below 1 Picard's iteration converges near z, at the rate ρ. Two vectors Q, so that a
    complex pair is found like a real eigenvalue: Q ← orthonormal basis of JQ, and ρ is
    that of the 2 × 2 matrix QᵀJQ. It ends when ‖JQ - Q QᵀJQ‖ is below `rtol` ‖JQ‖, or
    after `max_steps` (two products each) with what there is then.

    A scalar without derivative: differentiating it is an error. For a loss take
    `jacobian_frobenius`.

    Source: subspace iteration, Golub, Van Loan, *Matrix Computations*, 4th ed., 7.3.2.
    """
    along, y = _flat(cell, z, x, args)
    _, product = jax.linearize(along, y)
    columns = jax.vmap(product, in_axes=1, out_axes=1)
    Q = jnp.linalg.qr(jax.random.normal(key, (y.size, min(2, y.size)), y.dtype))[0]

    def parts(Q):
        JQ = columns(Q)
        T = Q.T @ JQ
        return JQ, T, jnp.linalg.norm(JQ - Q @ T) > rtol * jnp.linalg.norm(JQ)

    def body(carry):
        (JQ, _, _), steps = carry
        return parts(jnp.linalg.qr(JQ)[0]), steps + 1

    going = lambda carry: carry[0][2] & (carry[1] < max_steps)
    (_, T, _), _ = jax.lax.while_loop(going, body, (parts(Q), 0))
    return eqxi.nondifferentiable(_radius(T), name="spectral_radius")


def _radius(T):
    """Of a matrix of one or two rows: λ = t/2 ± √(t²/4 - det)."""
    if T.shape == (1, 1):
        return jnp.abs(T[0, 0])
    half = (T[0, 0] + T[1, 1]) / 2
    det = T[0, 0] * T[1, 1] - T[0, 1] * T[1, 0]
    square = half * half - det
    real = jnp.abs(half) + jnp.sqrt(jnp.maximum(square, 0.0))
    return jnp.where(square >= 0, real, jnp.sqrt(jnp.maximum(det, 0.0)))


def _flat(cell, z, x, args):
    """The cell as a map of real vectors, and its argument."""
    y, unflatten = flatten(z)
    return lambda y: ravel(cell(unflatten(y), x, *args)).astype(y.dtype), y


def _mean(term, y, key, probes: int):
    if not isinstance(probes, int) or probes < 1:
        raise ValueError(
            f"`probes` must be a positive integer.\nGot {probes!r}.\n"
            "One is enough inside a training loop."
        )
    v = jax.random.rademacher(key, (probes, y.size), y.dtype)
    return jnp.mean(jax.vmap(term)(v))
