"""The cell types a mesh may hold: their nodes, facets and orientation.

Node orders are those of VTK and meshio. Facets are numbered as scikit-fem does, whose
files store a boundary as one bit for each local facet.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class CellType:
    """`dim`: of the reference cell. `n_nodes`, `n_vertices`: with and without the nodes
    of curved geometry. `facets`, `edges`: tuples of local vertex numbers. `corners`: at
    each corner, its number and its neighbours' in right-handed order. `flip`: the order
    of the nodes that reverses the orientation. `order`: of the geometry."""

    name: str
    dim: int
    n_nodes: int
    n_vertices: int
    facets: tuple[tuple[int, ...], ...]
    corners: tuple[tuple[int, ...], ...]
    flip: tuple[int, ...]
    edges: tuple[tuple[int, ...], ...] = ()
    order: int = 1

    @property
    def simplex(self) -> bool:
        return self.n_vertices == self.dim + 1

    def determinants(self, points, cells) -> np.ndarray:
        """Signed volumes of the parallelepipeds at the corners, `(n_cells, n_corners)`;
        of a simplex, dim! times its volume, at one corner."""
        frames = points[cells[:, self.corners]]  # (n_cells, n_corners, 1 + dim, dim)
        return np.linalg.det(frames[:, :, 1:] - frames[:, :, :1])


_LINE = CellType("line", 1, 2, 2, ((0,), (1,)), ((0, 1),), (1, 0))
_TRIANGLE = CellType("triangle", 2, 3, 3, ((0, 1), (1, 2), (0, 2)), ((0, 1, 2),), (0, 2, 1))
_QUAD = CellType(
    "quad",
    2,
    4,
    4,
    ((0, 1), (1, 2), (2, 3), (0, 3)),
    ((0, 1, 3), (1, 2, 0), (2, 3, 1), (3, 0, 2)),
    (0, 3, 2, 1),
)
_TETRA = CellType(
    "tetra",
    3,
    4,
    4,
    ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)),
    ((0, 1, 2, 3),),
    (0, 2, 1, 3),
    ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)),
)
_HEXAHEDRON = CellType(
    "hexahedron",
    3,
    8,
    8,
    (
        (0, 1, 2, 3),
        (4, 5, 6, 7),
        (0, 1, 5, 4),
        (1, 2, 6, 5),
        (2, 3, 7, 6),
        (3, 0, 4, 7),
    ),
    (
        (0, 1, 3, 4),
        (1, 2, 0, 5),
        (2, 3, 1, 6),
        (3, 0, 2, 7),
        (4, 7, 5, 0),
        (5, 4, 6, 1),
        (6, 5, 7, 2),
        (7, 6, 4, 3),
    ),
    (0, 3, 2, 1, 4, 7, 6, 5),
    (
        *((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6)),
        *((6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)),
    ),
)


def _curved(base: CellType, name: str, flip: tuple[int, ...]) -> CellType:
    return dataclasses.replace(base, name=name, n_nodes=len(flip), flip=flip, order=2)


CELL_TYPES = {
    t.name: t
    for t in (
        _LINE,
        _TRIANGLE,
        _QUAD,
        _TETRA,
        _HEXAHEDRON,
        _curved(_LINE, "line3", (1, 0, 2)),
        _curved(_TRIANGLE, "triangle6", (0, 2, 1, 5, 4, 3)),
        _curved(_QUAD, "quad8", (0, 3, 2, 1, 7, 6, 5, 4)),
        _curved(_QUAD, "quad9", (0, 3, 2, 1, 7, 6, 5, 4, 8)),
        _curved(_TETRA, "tetra10", (0, 2, 1, 3, 6, 5, 4, 7, 9, 8)),
    )
}


def row_keys(rows: np.ndarray, n: int) -> np.ndarray:
    """One integer for each row of numbers below `n`; the same for the same numbers."""
    rows = np.sort(rows, axis=1)
    keys = rows[:, 0]
    bound = n  # keys lie below it
    for column in rows.T[1:]:
        if bound > 2**62 // n:
            keys = np.unique(keys, return_inverse=True)[1]
            bound = len(keys)
        keys, bound = keys * n + column, bound * n
    return keys
