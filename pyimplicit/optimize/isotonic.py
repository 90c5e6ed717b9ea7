r"""Isotonic regression: the nearest monotone sequence.

The solution is made of blocks of neighbours that share their weighted mean. Which blocks
those are is found without derivatives; on given blocks the solution is a linear function of
y (block averages) and a smooth one of the weights, and JAX differentiates that.
"""

import jax
import jax.numpy as jnp

from .vectors import check_like, floats, vector


def isotonic_regression(y, weights=None, y_min=-jnp.inf, y_max=jnp.inf, increasing=True):
    r"""argmin_v Σ wᵢ (vᵢ - yᵢ)² with v₁ ≤ … ≤ vₙ and y_min ≤ v ≤ y_max.

    **Arguments:**

    - `y`: `(n,)`.
    - `weights`: w, `(n,)`, positive; 1 by default.
    - `y_min`, `y_max`: bounds, numbers.
    - `increasing`: False: v₁ ≥ … ≥ vₙ.

    **Returns:** v, `(n,)`; NaN if a weight is not positive.

    **Derivative:** block averages: v̇ = Σ_block w ẏ/Σ_block w, and (y - v)/Σ_block w in a
    weight. Where neighbouring blocks have equal means they are not joined: one of the
    one-sided derivatives.

    **Errors:** `ValueError` on other shapes.

    **Cost:** pool adjacent violators, 2n - 1 short steps (a loop of fixed length, so that a
    batch costs no more than its samples).

    ??? cite "Reference"
        Best, Chakravarti, *Active set algorithms for isotonic regression* (1990).
        doi:10.1007/BF01580873. Its derivative: Blondel, Teboul, Berthet, Djolonga, *Fast
        differentiable sorting and ranking* (2020). arXiv:2002.08871
    """
    y = vector("isotonic_regression", y)
    w = jnp.ones_like(y) if weights is None else floats(weights).astype(y.dtype)
    check_like("isotonic_regression", "weights", w, y)
    return _regression(y, w, y_min, y_max, 1 if increasing else -1)


@jax.jit
def _regression(y, w, y_min, y_max, sign):
    block = _blocks(*jax.lax.stop_gradient((sign * y, w)))
    sums = lambda a: jax.ops.segment_sum(a, block, y.size, indices_are_sorted=True)
    mass = sums(w)
    mean = sums(w * y) / jnp.where(mass == 0, 1, mass)
    v = mean[block]
    v = jnp.where(v > y_min, v, y_min)
    v = jnp.where(v < y_max, v, y_max)
    return jnp.where(jnp.all(w > 0) & ~jnp.any(jnp.isnan(y)), v, jnp.nan)


def _blocks(y, w):
    """The number of the block of each entry, rising from 0.

    A stack of blocks (first entry, mass, mean). Each step joins the two on top if they are
    out of order, else pushes the next entry; after 2n - 1 steps nothing is left to do.
    """
    n = y.size

    def step(_, state):
        top, new, first, mass, mean = state
        below = jnp.maximum(top - 1, 0)
        join = (top > 0) & (mean[below] > mean[top])
        push = ~join & (new < n)
        at = jnp.where(join, below, jnp.where(push, top + 1, top))
        k = jnp.minimum(new, n - 1)
        total = mass[below] + mass[top]
        joined = mean[below] + (mean[top] - mean[below]) * (mass[top] / total)
        choose = lambda a, b, c: jnp.where(join, a, jnp.where(push, b, c))
        first = first.at[at].set(choose(first[below], k, first[at]))
        mean = mean.at[at].set(choose(joined, y[k], mean[at]))
        mass = mass.at[at].set(choose(total, w[k], mass[at]))
        return at, new + push, first, mass, mean

    start = (jnp.array(0), jnp.array(1), jnp.zeros(n, int), w, y)
    top, _, first, _, _ = jax.lax.fori_loop(0, 2 * n - 2, step, start)
    starts = jnp.zeros(n, int).at[first].max((jnp.arange(n) <= top).astype(int))
    return jnp.cumsum(starts) - starts[0]
