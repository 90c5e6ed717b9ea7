"""Finite elements: their basis on the reference cell."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Lagrange1:
    """P1: linear on simplices of dimension `dim`, one unknown at each vertex."""

    dim: int

    name = "P1"

    @property
    def n_basis(self) -> int:
        return self.dim + 1

    def values(self, x: np.ndarray) -> np.ndarray:
        """The basis at reference points `(n, dim)`: `(n, n_basis)`."""
        return np.concatenate([1 - x.sum(axis=1, keepdims=True), x], axis=1)

    def gradients(self, x: np.ndarray) -> np.ndarray:
        """Its reference gradients there: `(n, n_basis, dim)`."""
        gradients = np.concatenate([-np.ones((1, self.dim)), np.eye(self.dim)])
        return np.broadcast_to(gradients, (len(x), *gradients.shape))


ELEMENTS = {"P1": {"line": 1, "triangle": 2, "tetra": 3}}


def find_element(name: str, cell_types) -> Lagrange1:
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
    if cell_type not in ELEMENTS[name]:
        raise ValueError(
            f"`FunctionSpace(mesh, {name!r})` must have straight cells of type "
            f"{', '.join(map(repr, ELEMENTS[name]))}.\nGot {cell_type!r} cells.\n"
            "Export the mesh with first-order simplices (gmsh: Mesh.ElementOrder = 1)."
        )
    return Lagrange1(ELEMENTS[name][cell_type])
