"""Where the unknowns of an element live, and their numbers.

An unknown belongs to a vertex, or to the middle of an edge, a face or a cell; what it
belongs to is named by its vertices, and cells that share those share the unknown.
Vertices come first, in the order of the mesh's points, then edges, faces and cells. Where
the mesh has the same nodes as the element, unknowns are numbered as its points.
"""

import dataclasses
import functools

import numpy as np

from .cells import CELL_TYPES, match_rows, row_keys, subsets
from .elements import Lagrange
from .mesh import Mesh


@dataclasses.dataclass(frozen=True, eq=False)
class Numbering:
    """`cell_dofs`: `(n_cells, n_basis)`. `places`: vertices of an unknown's place, of each
    size, `(n, size)`, and the numbers `(n,)` of the unknowns there."""

    n_dofs: int
    cell_dofs: np.ndarray
    places: dict[int, tuple[np.ndarray, np.ndarray]]
    n_points: int

    def on(self, rows: np.ndarray) -> np.ndarray:
        """Sorted numbers of the unknowns on the facets, edges or vertices whose vertices
        are `rows`, `(n, k)`."""
        found = []
        for size, (there, dofs) in self.places.items():
            if size <= rows.shape[1]:
                parts = subsets(rows, size).reshape(-1, size)
                at = match_rows(there, parts, self.n_points)
                found.append(dofs[at[at >= 0]])
        return np.unique(np.concatenate(found))

    def at(self, rows: np.ndarray) -> np.ndarray:
        """The unknown in the middle of each of `rows`, `(n, size)` -> `(n,)`."""
        there, dofs = self.places[rows.shape[1]]
        return dofs[match_rows(there, rows, self.n_points)]

    @functools.cached_property
    def at_points(self) -> np.ndarray:
        """The unknown at each point of the mesh, `(n_points,)`, or -1."""
        rows, dofs = self.places[1]
        numbers = np.full(self.n_points, -1)
        numbers[rows[:, 0]] = dofs
        return numbers


def number(mesh: Mesh, element: Lagrange) -> Numbering:
    """The unknowns of a scalar function."""
    ((name, cells),) = mesh.cells.items()
    kind, nodes = CELL_TYPES[name], element.cell.nodes
    vertices, n = cells[:, : kind.n_vertices], mesh.n_points
    same = kind.nodes == nodes
    cell_dofs = cells if same else np.empty((len(cells), len(nodes)), np.int64)
    places, start = {}, 0
    for size in sorted(set(map(len, nodes))):
        local = [i for i, node in enumerate(nodes) if len(node) == size]
        rows = vertices[:, [nodes[i] for i in local]].reshape(-1, size)
        first, numbers = _distinct(rows, n)
        if not same:
            cell_dofs[:, local] = start + numbers.reshape(len(cells), -1)
        places[size] = rows[first], cell_dofs[:, local].ravel()[first]
        start += len(first)
    return Numbering(start, cell_dofs, places, n)


def _distinct(rows: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    _, first, numbers = np.unique(row_keys(rows, n), return_index=True, return_inverse=True)
    return first, numbers
