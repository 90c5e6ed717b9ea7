r"""Many steps of M u' + K u = b(t) with constant matrices, in one call of the engine.

A scheme of implicit solves is a linear system L y = f with a banded, block lower
triangular matrix: block row j is

    M (yⱼ - Σ_d p_jd y_{j-d}) + K (cⱼ yⱼ + Σ_d q_jd y_{j-d}) = fⱼ,       j = 1 … m,

a solve with M + cⱼ K; of second order, M u'' + K u = b, the state is a pair (y, v) with
v = u' and the rows are

    M (vⱼ - Σ p v_{j-d}) + K (cⱼ yⱼ + Σ q y_{j-d}) = fⱼ,
    yⱼ - cⱼ vⱼ - Σ p y_{j-d} - Σ q v_{j-d} = gⱼ.

So the march is one `jax.lax.custom_linear_solve`: its solve runs forwards, its transposed
solve backwards with the same factors, and the derivative in M, K and the scheme is that of
the product L y, which is written out in `product`: from L y = f, L ẏ = ḟ - L̇ y.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import engine
from ..engine.call import call
from .pattern import SparsePattern


class Bands(NamedTuple):
    """The numbers of L: `c` `(m,)`; `p`, `q` `(m, w)`, column d - 1 for y_{j-d}."""

    c: jax.Array
    p: jax.Array
    q: jax.Array


def march(pattern: SparsePattern, mass, stiffness, bands: Bands, f, *, throw: bool = True):
    """y with L y = f, `(m, 1, n)`, or `(m, 2, n)` for second order; the status and the
    backward error `(m,)` of each solve.

    `mass`, `stiffness`: entries `(nnz,)` of M and K. One factorisation for each c in a
    row; each solve, forwards and backwards, is checked by its residual.

    *Derivative* in all arrays, any order, both modes: one more march for each tangent or
    cotangent, which finds the factors again.
    """

    def solver(transpose: bool):
        def solve(_, f):
            y, *stats = _raw(pattern, mass, stiffness, bands, f, transpose, throw)
            return y, tuple(stats)

        return solve

    matvec = lambda y: product(pattern, mass, stiffness, bands, y)
    y, (status, residual) = jax.lax.custom_linear_solve(
        matvec, f, solver(False), solver(True), has_aux=True
    )
    return y, status, residual


def product(pattern: SparsePattern, mass, stiffness, bands: Bands, y):
    """L y, of the shape of y."""
    c, p, q = bands
    u, v = y[:, 0], y[:, -1]
    a = v - past(p, v)
    d = c[:, None] * u + past(q, u)
    # Row by row: all at once the products before their sum would take m times nnz numbers.
    row = lambda ad: pattern.matvec(mass, ad[0]) + pattern.matvec(stiffness, ad[1])
    first = jax.lax.map(jax.checkpoint(row, prevent_cse=False), (a, d))
    if y.shape[1] == 1:
        return first[:, None]
    second = u - c[:, None] * v - past(p, u) - past(q, v)
    return jnp.stack([first, second], axis=1)


def past(weights, y):
    """Σ_d weights[j, d-1] y_{j-d}, `(m, n)`; nothing before the first."""
    total = jnp.zeros_like(y)
    for d in range(1, min(weights.shape[1], len(y) - 1) + 1):
        total = total.at[d:].add(weights[d:, d - 1, None] * y[:-d])
    return total


def _raw(pattern, mass, stiffness, bands: Bands, f, transpose: bool, throw: bool):
    """The engine's operation, without a derivative."""
    pattern.register()
    real, m = jnp.finfo(f.dtype).dtype, f.shape[:1]
    return call(
        engine.target("march", f.dtype),
        mass.astype(f.dtype),
        stiffness.astype(f.dtype),
        *(a.astype(real) for a in bands),
        f,
        out=[
            jax.ShapeDtypeStruct(f.shape, f.dtype),
            jax.ShapeDtypeStruct(m, "int32"),
            jax.ShapeDtypeStruct(m, real),
        ],
        pattern=pattern.key,
        transpose=int(transpose),
        throw=int(throw),
    )
