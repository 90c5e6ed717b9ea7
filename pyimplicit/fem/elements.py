"""Finite elements: reference points, and the shape functions that are 1 at one of them.

An element's points are the nodes of a cell type, so P2 on triangles has its unknowns
where a second-order triangle has its nodes, in the same order.
"""

import dataclasses
import functools
import itertools

import numpy as np

from .cells import CELL_TYPES, SECOND_ORDER, STRAIGHT, CellType


@dataclasses.dataclass(frozen=True)
class Lagrange:
    """Polynomials with one unknown at each node of `cell`: of total degree `order` on
    simplices (P1, P2), of degree `order` in each coordinate on quads and hexahedra (Q1,
    Q2), or the serendipity functions where the cell has nodes for no more."""

    name: str
    cell: CellType

    @property
    def dim(self) -> int:
        return self.cell.dim

    @property
    def order(self) -> int:
        return self.cell.order

    @property
    def n_basis(self) -> int:
        return self.cell.n_nodes

    @functools.cached_property
    def powers(self) -> np.ndarray:
        """Of the monomials that span the element, `(n_basis, dim)`."""
        every = np.array(list(itertools.product(range(self.order + 1), repeat=self.dim)))
        if self.cell.simplex:
            return every[every.sum(axis=1) <= self.order]
        if len(every) == self.n_basis:
            return every
        # Degree that linear factors do not add to (Arnold & Awanou 2011, Section 2).
        return every[np.where(every > 1, every, 0).sum(axis=1) <= self.order]

    @functools.cached_property
    def coefficients(self) -> np.ndarray:
        """Of the shape functions in the monomials, one column each; whole numbers."""
        return np.round(np.linalg.inv(_monomials(self.cell.points, self.powers)))

    def values(self, x: np.ndarray) -> np.ndarray:
        """The basis at reference points `(n, dim)`: `(n, n_basis)`."""
        return _monomials(x, self.powers) @ self.coefficients

    def gradients(self, x: np.ndarray) -> np.ndarray:
        """Its reference gradients there: `(n, n_basis, dim)`."""
        parts = []
        for axis in range(self.dim):
            lower = self.powers.copy()
            lower[:, axis] = np.maximum(lower[:, axis] - 1, 0)
            parts.append(_monomials(x, lower) * self.powers[:, axis] @ self.coefficients)
        return np.stack(parts, axis=-1)


def _monomials(x: np.ndarray, powers: np.ndarray) -> np.ndarray:
    return np.prod(x[:, None, :] ** powers, axis=2)


_FIRST = {"P": ("line", "triangle", "tetra"), "Q": ("quad", "hexahedron")}
ELEMENTS = {
    f"{family}{order}": {
        cell: CELL_TYPES[SECOND_ORDER[cell] if order == 2 else cell] for cell in cells
    }
    for order in (1, 2)
    for family, cells in _FIRST.items()
}


def geometry(cell: CellType) -> Lagrange:
    """The element that maps the reference cell to a cell with these nodes."""
    return Lagrange(cell.name, cell)


def find_element(name: str, cell_types) -> Lagrange:
    """The element `name` on the one cell type of a mesh."""
    if name not in ELEMENTS:
        raise ValueError(
            "`FunctionSpace(mesh, element)` must be one of "
            f"{', '.join(map(repr, ELEMENTS))}.\nGot {name!r}.\n"
            "Other elements are not there yet; take the nearest of these."
        )
    if len(cell_types) > 1:
        raise ValueError(
            f"`FunctionSpace(mesh, {name!r})` must have cells of one type.\n"
            f"Got a mesh of {' and '.join(map(repr, cell_types))}.\n"
            "Split the cells into triangles or tetrahedra, e.g. in gmsh."
        )
    (cell_type,) = cell_types
    if STRAIGHT[cell_type] not in ELEMENTS[name]:
        other = {"P": "Q", "Q": "P"}[name[0]] + name[1:]
        raise ValueError(
            f"`FunctionSpace(mesh, {name!r})` must have cells of type "
            f"{', '.join(map(repr, ELEMENTS[name]))}.\nGot {cell_type!r} cells.\n"
            f"Use {other!r} there."
        )
    return Lagrange(name, ELEMENTS[name][STRAIGHT[cell_type]])
