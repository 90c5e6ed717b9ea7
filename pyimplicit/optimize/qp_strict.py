"""How strictly an inequality is active: its slack and its multiplier, in its own terms.

A multiplier of 1e-4 is much where forces are 1e-4, and round-off of one where they are
1e12. So both are measured by what acts on the row's own unknowns; of that, by no less
than a thousandth of the largest there is, or round-off would be measured by itself where
nothing acts at all.
"""

import jax
import jax.numpy as jnp

from .matrices import product, row_extent, tproduct
from .qp_data import QP, Rows


FLOOR = 1e-3
MANY = 1000  # rows


def shares(qp: QP, x, y, z, reach):
    """`(s, z)`: slacks and multipliers, relative. `reach`: a size of unknowns."""
    top = lambda v: jnp.max(v, initial=0.0)
    tiny = jnp.finfo(x.dtype).tiny ** 0.5
    force = jnp.abs(product(qp.P, x)) + jnp.abs(qp.q)
    force = force + jnp.abs(tproduct(qp.A, y)) if y.size else force  # and -Cᵀz: their sum
    force = jnp.maximum(force, FLOOR * top(force))
    far = jnp.maximum(jnp.abs(x), FLOOR * reach)
    box = jnp.ones(qp.d.size - qp.C.m, x.dtype)
    widest, total = (jnp.concatenate([v, box]) for v in row_extent(qp.C.G))
    bound = qp.live | qp.fixed
    d = jnp.where(bound, qp.d, 0.0)
    s = jnp.where(bound, d - qp.C.mul(x), jnp.inf)
    G = jax.tree.map(jnp.abs, qp.C.G)
    size = Rows(G, qp.C.lower, qp.C.upper).mul
    s = s / (jnp.abs(d) + jnp.abs(size(far)) + tiny)
    return s, z * widest * total / (jnp.abs(size(force)) + tiny)


def negligible(rows: int, dtype) -> float:
    """Shares below it are zero to round-off. Of many rows some are small by chance: the
    more there are, the less is negligible."""
    return 100 * float(jnp.finfo(dtype).eps) ** 0.65 / max(1.0, rows / MANY)
