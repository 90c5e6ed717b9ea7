"""Elimination written out for a handful of unknowns.

A batch of a thousand 3 x 3 systems is a thousand calls of LAPACK, or one loop of plain
arithmetic that XLA vectorises over the batch.
"""

import jax.numpy as jnp
import lineax as lx

from .._tree import flatten


SMALL = 4  # written out, the code grows with the cube


class SmallLU(lx.AbstractLinearSolver):
    """Gaussian elimination with partial pivoting, unrolled; a lineax solver."""

    def init(self, operator, options):
        return operator.as_matrix()

    def compute(self, state, vector, options):
        b, unflatten = flatten(vector)
        return unflatten(eliminate(state, b)), lx.RESULTS.successful, {}

    def transpose(self, state, options):
        return state.T, options

    def conj(self, state, options):
        return state.conj(), options

    def assume_full_rank(self) -> bool:
        return True


def eliminate(A, b):
    """x with A x = b for a small `(n, n)` array; infinite or NaN if A is singular."""
    n = b.size
    rows = [[A[i, j] for j in range(n)] + [b[i]] for i in range(n)]
    for k in range(n):
        for i in range(k + 1, n):  # the largest entry of the column comes up
            swap = jnp.abs(rows[i][k]) > jnp.abs(rows[k][k])
            pairs = list(zip(rows[k], rows[i], strict=True))
            rows[k] = [jnp.where(swap, low, high) for high, low in pairs]
            rows[i] = [jnp.where(swap, high, low) for high, low in pairs]
        for i in range(k + 1, n):
            factor = rows[i][k] / rows[k][k]
            rows[i] = [c - factor * p for c, p in zip(rows[i], rows[k], strict=True)]
    x = [b[0]] * n
    for i in reversed(range(n)):
        known = sum((rows[i][j] * x[j] for j in range(i + 1, n)), jnp.zeros_like(b[0]))
        x[i] = (rows[i][n] - known) / rows[i][i]
    return jnp.stack(x)
