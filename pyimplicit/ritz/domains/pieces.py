r"""Domains in pieces: simplices, straight or curved, and all their rules.

A piece is the image of {ξ >= 0, Σξ <= 1}, and that of a cube, collapsed at vertex 0: at
the distance r = s₁^q from it lies a copy of the opposite face, r times as large. With
q = 1/k volumes are kept, which is how random points are laid; products of Gauss rules take
q = 1, and larger q at corners where the solution is r^α: of f = r^(α - 1) … the integrand
f(s₁^q) q s₁^(qk - 1) is smooth if q α is a whole number (Duffy 1982, doi:10.1137/0719090).
"""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .abstract import AbstractDomain, Nodes, as_rule, check_gauss, composite, product


class Pieces(NamedTuple):
    """m simplices of k dimensions in `dim`.

    `vertices`: `(m, k + 1, dim)`; of facets ordered so that normals point outwards.
    `bend`: `(m, k (k + 1) / 2, dim)`, by how much the middle of each edge (in the order of
    `itertools.combinations`) lies off the straight one, or None. `grade`: the q of Gauss
    rules, `(m,)`. `side`: ±1, turns normals, `(m,)`. `shift`: added to all nodes,
    `(m, dim)`: to tell the two faces of a slit.
    """

    vertices: np.ndarray
    bend: np.ndarray | None = None
    grade: np.ndarray | None = None
    side: np.ndarray | None = None
    shift: np.ndarray | None = None

    @property
    def k(self) -> int:
        return self.vertices.shape[1] - 1

    def measures(self) -> np.ndarray:
        """Length, area or volume of each, `(m,)`."""
        xi, w = fold(np.ones(1), *_unit(6 if self.bend is not None else 2, 1, self.k))
        everywhere = np.arange(len(self.vertices))[:, None]
        return self.place(everywhere, xi)[2] @ w[0]

    def place(self, piece, xi) -> tuple[Any, Any, Any]:
        """Points `(..., dim)` of `piece` at ξ `(..., k)`, normals `(..., dim)` (None if k =
        dim) and measures; NumPy or JAX, as ξ is."""
        xp = jnp if isinstance(xi, jax.Array) else np
        take = lambda a: xp.asarray(a, xi.dtype)[piece]
        v = take(self.vertices)
        bary = xp.concatenate([1 - xi.sum(axis=-1, keepdims=True), xi], axis=-1)
        x = (bary[..., None] * v).sum(axis=-2)
        J = (v[..., 1:, :] - v[..., :1, :]) + 0 * xi[..., None]  # (..., k, dim)
        if self.bend is not None:
            bend = take(self.bend)
            slopes = np.concatenate([-np.ones((1, self.k)), np.eye(self.k)])
            pairs = enumerate(itertools.combinations(range(self.k + 1), 2))
            for e, (i, j) in pairs:
                off = 4 * bend[..., e, :]
                x = x + (bary[..., i] * bary[..., j])[..., None] * off
                slope = slopes[i] * bary[..., j, None] + slopes[j] * bary[..., i, None]
                J = J + slope[..., None] * off[..., None, :]
        if self.k == x.shape[-1]:
            return x, None, abs(_det(J, xp))
        normal = normals(J, xp)
        measure = xp.sqrt((normal**2).sum(axis=-1))
        if self.side is not None:
            normal = normal * take(self.side)[..., None]
        if self.shift is not None:
            x = x + take(self.shift)
        return x, normal / measure[..., None], measure

    def spread(self, measures: np.ndarray, t: jax.Array) -> Nodes:
        """Points `(n, max(k, 1))` of the cube, of equal density in the union: the first
        coordinate tells the piece, and what is left of it is stretched."""
        share = measures / measures.sum()
        ends = jnp.asarray(np.cumsum(share), t.dtype)
        piece = jnp.searchsorted(ends[:-1], t[:, 0], side="right")
        share = jnp.asarray(share, t.dtype)[piece]
        first = jnp.clip(1 - (ends[piece] - t[:, 0]) / share, 0, 1)
        xi = _uniform(t.at[:, 0].set(first), self.k)
        x, normal, measure = self.place(piece, xi)
        w = measure / (math.factorial(self.k) * share * len(t))
        return Nodes(x, w.astype(t.dtype), normal)

    def gauss(self, points: int, cells: int) -> Nodes:
        """Products of composite Gauss rules in each piece."""
        m = len(self.vertices)
        grade = np.ones(m) if self.grade is None else self.grade
        xi, w = fold(grade, *_unit(points, cells, self.k))  # (m, n, k), (m, n)
        x, normal, measure = self.place(np.arange(m)[:, None], xi)
        flat = lambda a: None if a is None else a.reshape(-1, a.shape[-1])
        return Nodes(flat(x), (measure * w).ravel(), flat(normal))


class PiecewiseDomain(AbstractDomain):
    """A domain of pieces: `inside`, `(m, dim + 1, dim)`, and `around`, its facets.

    `gauss(points, cells)` is a product rule in each of them: m (points cells)^dim nodes.
    """

    inside: Pieces
    around: Pieces

    def __init__(self, inside: Pieces, around: Pieces):
        self.inside, self.around = inside, around
        self.dim = self.cube_dim = inside.k
        self.boundary_cube_dim = max(around.k, 1)
        self._volumes, self._areas = inside.measures(), around.measures()
        self.volume, self.area = float(self._volumes.sum()), float(self._areas.sum())
        self.parts = len(inside.vertices)

    def interior(self, t):
        return self.inside.spread(self._volumes, t)

    def boundary(self, t):
        return self.around.spread(self._areas, t)

    def gauss(self, points, cells=1):
        check_gauss(points, cells, self.dim)
        return as_rule(self.inside.gauss(points, cells), self.around.gauss(points, cells))

    def contains(self, x):
        """In one of the straight pieces."""
        v = self.inside.vertices
        # Once. (A batched solve for each rule, several in a program, was seen to hang in
        # jaxlib 0.10 on two cores: its threads waited for tasks of their own pool.)
        inverse = np.linalg.inv(np.swapaxes(v[:, 1:] - v[:, :1], 1, 2))
        first, inverse = (jnp.asarray(a, x.dtype) for a in (v[:, 0], inverse))
        xi = jnp.einsum("pij,pj->pi", inverse, x - first)
        least = jnp.minimum(xi.min(axis=1), 1 - xi.sum(axis=1))
        return jnp.any(least > -10 * jnp.finfo(x.dtype).eps)


def fold(grade: np.ndarray, t: np.ndarray, w: np.ndarray) -> tuple[Any, Any]:
    """Nodes of the cube `(n, k)` in the simplex of each of m pieces, collapsed at vertex
    0: ξ `(m, n, k)` and weights `(m, n)`."""
    k = t.shape[1]
    if k == 0:
        return np.zeros((len(grade), len(t), 0)), np.broadcast_to(w, (len(grade), len(t)))
    inner, v = fold(np.ones(1), t[:, 1:], w)
    face = np.concatenate([1 - inner[0].sum(axis=1, keepdims=True), inner[0]], axis=1)
    q = grade[:, None]
    r = t[:, 0] ** q
    slope = q * t[:, 0] ** (q - 1)
    return r[..., None] * face, v[0] * slope * r ** (k - 1)


def _uniform(t, k: int):
    """The same with volumes kept, `(n, k)` to `(n, k)`."""
    if k == 0:
        return t[:, :0]
    inner = _uniform(t[:, 1:], k - 1)
    face = jnp.concatenate([1 - inner.sum(axis=1, keepdims=True), inner], axis=1)
    return t[:, :1] ** (1 / k) * face


def _unit(points: int, cells: int, k: int):
    return product([composite(points, cells)] * k)


def _det(J, xp):
    """Of matrices of up to three rows."""
    if J.shape[-1] == 1:
        return J[..., 0, 0]
    if J.shape[-1] == 2:
        return J[..., 0, 0] * J[..., 1, 1] - J[..., 0, 1] * J[..., 1, 0]
    return (J[..., 0, :] * xp.cross(J[..., 1, :], J[..., 2, :])).sum(axis=-1)


def normals(J, xp):
    """The vector product of the rows, `(..., dim - 1, dim)`."""
    if J.shape[-1] == 1:
        return xp.ones((*J.shape[:-2], 1), J.dtype)
    if J.shape[-1] == 2:
        return xp.stack([J[..., 0, 1], -J[..., 0, 0]], axis=-1)
    return xp.cross(J[..., 0, :], J[..., 1, :])
