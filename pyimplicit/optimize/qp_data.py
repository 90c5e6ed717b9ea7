"""A quadratic programme as arrays, and its scaling.

All inequalities are one stack of rows, C x ≤ d:

    C = [G; -I; I],  d = [h; -lb; ub],  z = [z_G; z_lb; z_ub]

An entry of d that is +∞ is no constraint: its row stays (shapes are static) and is *dead*.
A bound with lb = ub has no interior: its upper row is *fixed*, an equality, and its lower
row is dead.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..linear.operator import SparseOperator
from .matrices import product, tproduct


class Rows(eqx.Module):
    """C. `G`: `(m, n)`, m may be 0; an array or a `SparseOperator`. `lower`, `upper`:
    whether those blocks are there. `Gt`: of an array the transpose, if it is at hand; both
    are kept in a loop, as XLA multiplies rows by rows faster than columns by columns."""

    G: Any
    lower: bool = eqx.field(static=True)
    upper: bool = eqx.field(static=True)
    Gt: Any = None

    def both_ways(self):
        return Rows(self.G, self.lower, self.upper, self.G.T)

    @property
    def m(self) -> int:
        return self.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        G = self.G
        return G.pattern.shape if isinstance(G, SparseOperator) else G.shape

    @property
    def size(self) -> int:
        m, n = self.shape
        return m + n * (self.lower + self.upper)

    def mul(self, x):
        """C x."""
        parts = [product(self.G, x)] if self.m else []
        parts += [-x] if self.lower else []
        parts += [x] if self.upper else []
        return jnp.concatenate(parts) if parts else jnp.zeros(0, x.dtype)

    def tmul(self, v):
        """Cᵀ v."""
        g, low, up = self.split(v)
        out = tproduct(self.G, g) if self.m else jnp.zeros(self.shape[1], v.dtype)
        return out + (up if self.upper else 0.0) - (low if self.lower else 0.0)

    def gram(self, w, H):
        """H + Cᵀ diag(w) C, for w ≥ 0."""
        g, low, up = self.split(w)
        if self.m:
            B = (self.G.T if self.Gt is None else self.Gt) * jnp.sqrt(g)
            H = H + B @ B.T
        if self.lower or self.upper:
            on = (low if self.lower else 0.0) + (up if self.upper else 0.0)
            H = H + jnp.diag(on)
        return H

    def split(self, v):
        """`(of G, of lb, of ub)`; zeros of shape (n,) where there are no bounds."""
        m, n = self.shape
        none = jnp.zeros(n, v.dtype)
        low = v[m : m + n] if self.lower else none
        up = v[v.shape[0] - n :] if self.upper else none
        return v[:m], low, up


class QP(eqx.Module):
    """min ½xᵀPx + qᵀx  subject to  A x = b,  C x ≤ d; P symmetric, A `(p, n)`, p ≥ 0.

    `live`: rows of C that are inequalities; `fixed`: rows that are equalities; others are
    dead, and their d counts for nothing.
    """

    P: Any
    q: jax.Array
    A: Any
    b: jax.Array
    C: Rows
    d: jax.Array
    live: jax.Array
    fixed: jax.Array

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.q.shape[0], self.b.shape[0], self.d.shape[0]


def programme(P, q, A, b, G, h, lb, ub) -> QP:
    """The stacked form; `lb`, `ub` may be None. A sparse P must be symmetric."""
    C = Rows(G, lb is not None, ub is not None)
    parts = [h, *([] if lb is None else [-lb]), *([] if ub is None else [ub])]
    d = jnp.concatenate(parts)
    live, fixed = d < jnp.inf, jnp.zeros(d.shape, bool)
    if lb is not None and ub is not None:
        m, n = C.shape
        pinned = (lb == ub) & jnp.isfinite(ub)
        fixed = fixed.at[m + n :].set(pinned)
        live = live & ~fixed.at[m : m + n].set(pinned)
    P = P if isinstance(P, SparseOperator) else (P + P.T) / 2
    return QP(P, q, A, b, C, d, live, fixed)


def dense(qp: QP) -> QP:
    """The same programme with arrays for matrices."""
    array = lambda M: M.as_matrix() if isinstance(M, SparseOperator) else M
    C = Rows(array(qp.C.G), qp.C.lower, qp.C.upper)
    return QP(array(qp.P), qp.q, array(qp.A), qp.b, C, qp.d, qp.live, qp.fixed)


class Scale(eqx.Module):
    """x = col · x̂, A-rows · row_y, C-rows · row_z, objective · cost."""

    col: jax.Array
    row_y: jax.Array
    row_z: jax.Array
    cost: jax.Array

    def unscale(self, x, y, z):
        return self.col * x, self.row_y * y / self.cost, self.row_z * z / self.cost


def scaled(qp: QP) -> tuple[QP, Scale]:
    """Rows of A and G near 1, then columns, then the objective (Ruiz 2001, two sweeps)."""
    P, A, G = qp.P, qp.A, qp.C.G
    top = lambda M, axis: jnp.max(jnp.abs(M), axis=axis, initial=0.0)
    safe = lambda size: jnp.where(size > 0, jnp.clip(size, 1e-8, 1e8), 1.0)
    y, g = 1 / safe(top(A, 1)), 1 / safe(top(G, 1))
    size = jnp.maximum(top(y[:, None] * A, 0), top(g[:, None] * G, 0))
    extent = top(P, 1)  # of rows or columns
    cost = 1 / safe(jnp.maximum(jnp.max(extent), jnp.max(jnp.abs(qp.q))))
    col = 1 / jnp.sqrt(safe(jnp.maximum(size, cost * extent)))
    A, G, P = y[:, None] * A * col, g[:, None] * G * col, P * col[:, None] * col
    y2, g2 = 1 / safe(top(A, 1)), 1 / safe(top(G, 1))
    q = qp.q * col
    cost = 1 / safe(jnp.maximum(jnp.max(top(P, 0)), jnp.max(jnp.abs(q))))
    bounds = [1 / col] * (qp.C.lower + qp.C.upper)
    row_z = jnp.concatenate([g * g2, *bounds])
    C = Rows(g2[:, None] * G, qp.C.lower, qp.C.upper).both_ways()
    hat = QP(
        cost * P,
        cost * q,
        y2[:, None] * A,
        y * y2 * qp.b,
        C,
        row_z * qp.d,
        qp.live,
        qp.fixed,
    )
    return hat, Scale(col, y * y2, row_z, cost)
