"""Where forms are integrated: all cells of a mesh, or the facets of a named boundary.

A reference point ξ is mapped to x = Σ φ_g(ξ) x_g by the shape functions of the cell's own
nodes, so cells may be curved. With J = ∂x/∂ξ the volume element is det J, gradients are
∇φ = J⁻ᵀ ∇_ξφ, and on a facet with reference normal n_ξ (as long as the facet's reference
element is large) n ds = det J J⁻ᵀ n_ξ: Nanson's formula.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import quadrature
from .cells import CELL_TYPES, STRAIGHT, match_rows
from .elements import Lagrange, geometry
from .mesh import Mesh


class Place(NamedTuple):
    """One cell or facet: points `(nq, dim)`, weights `(nq,)`, ∂ξ/∂x `(nq or 1, dim, dim)`,
    the outward normal `(nq or 1, dim)` of a facet, and the diameter of the cell."""

    x: jax.Array
    weights: jax.Array
    inverse: jax.Array
    normal: jax.Array | None
    h: jax.Array


class Domain:
    """`n` items (cells or facets) with `n_quadrature` points each.

    `cells`: the cell of each item. `facet`: its local number there; `None` on cells.
    """

    def __init__(self, mesh: Mesh, degree: int, name: str | None = None):
        ((kind, cells),) = mesh.cells.items()
        self.mesh, self.name, self.degree = mesh, name, degree
        self.cell_type = cell = CELL_TYPES[kind]
        self.geometry = geometry(cell)
        self.affine = cell.simplex and cell.order == 1
        if name is None:
            self.cells, self.facet, self.normals = np.arange(len(cells)), None, None
            points, self.quadrature_weights = quadrature.rule(cell, degree)
            self.quadrature_points = points[None]
        else:
            self.cells, self.facet = _find_facets(mesh, cell, cells, name)
            self.quadrature_points, self.quadrature_weights, self.normals = _facet_rule(
                cell, degree
            )

    @property
    def n(self) -> int:
        return len(self.cells)

    @property
    def n_quadrature(self) -> int:
        return len(self.quadrature_weights)

    def table(self, element: Lagrange) -> tuple[np.ndarray, np.ndarray]:
        """The basis `(F, nq, k)` and its reference gradients `(F, nq or 1, k, dim)`; F is 1
        on cells, the number of local facets on facets."""
        if element not in self._tables:
            values = [element.values(x) for x in self.quadrature_points]
            gradients = [element.gradients(x) for x in self.quadrature_points]
            if element.cell.simplex and element.order == 1:  # constant
                gradients = [g[:1] for g in gradients]
            self._tables[element] = np.stack(values), np.stack(gradients)
        return self._tables[element]

    @functools.cached_property
    def _tables(self) -> dict:
        return {}

    def pick(self, table: np.ndarray, facet) -> jax.Array:
        """The part of a table for one item."""
        return jnp.asarray(table[0]) if facet is None else jnp.asarray(table)[facet]

    def place(self, nodes: jax.Array, facet=None) -> Place:
        """Geometry of one item, from the nodes of its cell, `(n_nodes, dim)`; `facet` is
        its local number. For use in `vmap`."""
        basis, gradients = (self.pick(t, facet) for t in self.table(self.geometry))
        basis, gradients = basis.astype(nodes.dtype), gradients.astype(nodes.dtype)
        x = basis @ nodes
        det, inverse = invert(jnp.einsum("qgr,gd->qdr", gradients, nodes))
        weights = jnp.asarray(self.quadrature_weights, nodes.dtype) * det
        normal = None
        if self.normals is not None:
            reference = self.pick(self.normals, facet).astype(nodes.dtype)
            normal = jnp.einsum("qrd,r->qd", inverse, reference)
            length = jnp.sqrt(jnp.sum(normal**2, axis=-1))
            normal, weights = normal / length[:, None], weights * length
        vertices = nodes[: self.cell_type.n_vertices]
        distances = jnp.sum((vertices[:, None] - vertices) ** 2, axis=-1)
        return Place(x, weights, inverse, normal, jnp.sqrt(jnp.max(distances)))

    @functools.cached_property
    def nodes(self) -> np.ndarray:
        """Numbers of the nodes of each item's cell, `(n, n_nodes)`."""
        (cells,) = self.mesh.cells.values()
        return cells if self.name is None else cells[self.cells]


def invert(J: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Determinant and inverse of matrices `(..., d, d)` with d <= 3, by cofactors."""
    d = J.shape[-1]
    if d == 1:
        return J[..., 0, 0], 1 / J
    if d == 2:
        (a, b), (c, e) = (tuple(J[..., i, j] for j in range(2)) for i in range(2))
        rows = [[e, -b], [-c, a]]
        det = a * e - b * c
    else:
        entry = lambda i, j: J[..., i % 3, j % 3]
        minor = lambda i, j: (
            entry(i + 1, j + 1) * entry(i + 2, j + 2)
            - entry(i + 1, j + 2) * entry(i + 2, j + 1)
        )
        rows = [[minor(j, i) for j in range(3)] for i in range(3)]
        det = entry(0, 0) * rows[0][0] + entry(0, 1) * rows[1][0] + entry(0, 2) * rows[2][0]
    cofactors = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    return det, cofactors / det[..., None, None]


def check_volume(det: np.ndarray) -> None:
    """Refuses curved cells that fold over: det J `(n_cells, nq)` must be positive."""
    bad = np.flatnonzero(~(det.min(axis=1) > 0))
    if bad.size:
        raise ValueError(
            "The cells of a mesh must not fold over.\n"
            f"Got cell {bad[0]} with det ∂x/∂ξ = {det[bad[0]].min():.3g} at a quadrature "
            f"point ({bad.size} such cells).\n"
            "Move its second-order nodes towards the middles of its edges."
        )


def _find_facets(mesh: Mesh, cell, cells, name: str):
    """The first cell that has each facet of a boundary, and which facet of it."""
    rows = mesh.boundary_rows(name)
    n, k = len(cell.facets), len(cell.facets[0])
    if rows.shape[1] != k:
        raise ValueError(
            "A boundary to integrate over must consist of facets.\n"
            f"Got {name!r}, rows of {rows.shape[1]} node(s) where facets have {k}.\n"
            "Use `point_evaluation(V, points).T(strength)` for loads at points."
        )
    every = cells[:, cell.facets].reshape(-1, k)
    return np.divmod(match_rows(every, rows, mesh.n_points), n)


@functools.cache
def _facet_rule(cell, degree: int):
    """Points `(F, nq, dim)`, weights `(nq,)` and normals `(F, dim)` on the reference
    cell; a normal is as long as its facet is larger than the reference facet."""
    corners = np.array(cell.vertices, float)
    kind = {1: None, 2: "line", 3: "triangle", 4: "quad"}[len(cell.facets[0])]
    if kind is None:
        t, weights = quadrature.simplex(0, degree)
        basis = np.ones((1, 1))
    else:
        facet = CELL_TYPES[STRAIGHT[kind]]
        t, weights = quadrature.rule(facet, degree)
        basis = geometry(facet).values(t)
    points, normals = [], []
    for vertices in cell.facets:
        at = corners[list(vertices)]
        points.append(basis @ at)
        if cell.dim == 1:
            normal = np.ones(1)
        elif cell.dim == 2:
            normal = np.array([[0, 1], [-1, 0]]) @ (at[1] - at[0])
        else:
            normal = np.cross(at[1] - at[0], at[-1] - at[0])
        outward = np.sign(normal @ (at.mean(axis=0) - corners.mean(axis=0)))
        normals.append(outward * normal)
    return np.stack(points), weights, np.stack(normals)
