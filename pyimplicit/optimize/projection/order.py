"""Projections onto order cones and permutahedra; soft sorting and ranking by them."""

import jax
import jax.numpy as jnp

from ..isotonic import isotonic_regression
from ..vectors import check_like, check_positive, vector


def projection_isotonic(x, increasing=True):
    """argmin_p ‖p - x‖ with p₁ ≤ … ≤ pₙ (≥ with `increasing=False`): onto the monotone
    cone. `isotonic_regression` without weights. `x`: `(n,)`."""
    return isotonic_regression(x, increasing=increasing)


def projection_permutahedron(x, w):
    r"""argmin_p ‖p - x‖ over the convex hull of all permutations of w.

    **Arguments:** `x`, `w`: `(n,)`, both differentiated.

    **Returns:** p = x - v, v the (permuted) isotonic regression of sort(x) - sort(w).

    **Derivative:** of this formula with orders and blocks held: where entries of x, or of
    w, are equal, one of the one-sided derivatives.

    ??? cite "Reference"
        Blondel, Teboul, Berthet, Djolonga, *Fast differentiable sorting and ranking*
        (2020), Prop. 3. arXiv:2002.08871.
    """
    x, w = vector("projection_permutahedron", x), vector("projection_permutahedron", w)
    check_like("projection_permutahedron", "w", w, x)
    order = jnp.argsort(jax.lax.stop_gradient(-x))
    down = w[jnp.argsort(jax.lax.stop_gradient(-w))].astype(x.dtype)
    v = isotonic_regression(x[order] - down, increasing=False)
    return x - jnp.zeros_like(x).at[order].set(v)


def soft_sort(x, regularization=1.0, descending=False):
    """Sorted values that are differentiable in x in a useful way.

    The projection of the vector (1, …, n)/ε onto the permutahedron of x; ε =
    `regularization`, positive. ε → 0 gives sort(x), ε → ∞ the mean in every place.

    `x`: `(n,)`. *Derivative*, source: see `projection_permutahedron`.
    """
    x = vector("soft_sort", x)
    check_positive("soft_sort", "regularization", regularization)
    ranks = jnp.arange(1, x.size + 1, dtype=x.dtype)
    s = projection_permutahedron(ranks / regularization, x)
    return s[::-1] if descending else s


def soft_rank(x, regularization=1.0, descending=False):
    """Ranks 1 … n, differentiable in x: 1 for the least, or for the largest (`descending`).

    The projection of x/ε onto the permutahedron of (1, …, n); ε = `regularization`. ε → 0
    gives the ranks, ε → ∞ the mean rank (n + 1)/2 for all.

    `x`: `(n,)`. *Derivative*, source: see `projection_permutahedron`.
    """
    x = vector("soft_rank", x)
    check_positive("soft_rank", "regularization", regularization)
    ranks = jnp.arange(1, x.size + 1, dtype=x.dtype)
    y = x / regularization
    return projection_permutahedron(-y if descending else y, ranks)
