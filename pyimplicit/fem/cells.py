"""The cell types a mesh may hold: their nodes, facets and orientation.

Node orders are those of VTK and meshio. Facets are numbered as scikit-fem does, whose
files store a boundary as one bit for each local facet. A node of a second-order cell is
named by the vertices in whose middle it lies: (0, 1) is the midpoint of an edge.
"""

import dataclasses
import functools
import itertools

import numpy as np


Tuples = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class CellType:
    """`vertices`: of the reference cell, {x >= 0, Σ x <= 1} or [0, 1]^dim. `nodes`: tuples
    of local vertex numbers; the node is in their middle. `facets`, `edges`: likewise.
    `corners`: at each corner, its number and its neighbours' in right-handed order.
    `mirror`: the order of the vertices that reverses the orientation. `order`: of the
    geometry."""

    name: str
    vertices: tuple[tuple[int, ...], ...]
    nodes: Tuples
    facets: Tuples
    corners: Tuples
    mirror: tuple[int, ...]
    edges: Tuples = ()
    order: int = 1

    @property
    def dim(self) -> int:
        return len(self.vertices[0])

    @property
    def n_nodes(self) -> int:
        """With the nodes of curved geometry."""
        return len(self.nodes)

    @property
    def n_vertices(self) -> int:
        return len(self.vertices)

    @property
    def simplex(self) -> bool:
        return self.n_vertices == self.dim + 1

    @functools.cached_property
    def flip(self) -> tuple[int, ...]:
        """The order of the nodes that reverses the orientation."""
        place = {frozenset(node): i for i, node in enumerate(self.nodes)}
        turned = (frozenset(self.mirror[v] for v in node) for node in self.nodes)
        return tuple(place[node] for node in turned)

    @functools.cached_property
    def points(self) -> np.ndarray:
        """The nodes of the reference cell, `(n_nodes, dim)`."""
        corners = np.array(self.vertices, float)
        return np.stack([corners[list(node)].mean(axis=0) for node in self.nodes])

    def determinants(self, points, cells) -> np.ndarray:
        """Signed volumes of the parallelepipeds at the corners, `(n_cells, n_corners)`;
        of a simplex, dim! times its volume, at one corner."""
        frames = points[cells[:, self.corners]]  # (n_cells, n_corners, 1 + dim, dim)
        return np.linalg.det(frames[:, :, 1:] - frames[:, :, :1])


def _straight(name, vertices, facets, corners, mirror, edges=()) -> CellType:
    nodes = tuple((i,) for i in range(len(vertices)))
    return CellType(name, vertices, nodes, facets, corners, mirror, edges)


_LINE = _straight("line", ((0,), (1,)), ((0,), (1,)), ((0, 1),), (1, 0))
_TRIANGLE = _straight(
    "triangle",
    ((0, 0), (1, 0), (0, 1)),
    ((0, 1), (1, 2), (0, 2)),
    ((0, 1, 2),),
    (0, 2, 1),
)
_QUAD = _straight(
    "quad",
    ((0, 0), (1, 0), (1, 1), (0, 1)),
    ((0, 1), (1, 2), (2, 3), (0, 3)),
    ((0, 1, 3), (1, 2, 0), (2, 3, 1), (3, 0, 2)),
    (0, 3, 2, 1),
)
_TETRA = _straight(
    "tetra",
    ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)),
    ((0, 1, 2, 3),),
    (0, 2, 1, 3),
    ((0, 1), (1, 2), (0, 2), (0, 3), (1, 3), (2, 3)),
)
_HEXAHEDRON = _straight(
    "hexahedron",
    tuple((*p, z) for z in (0, 1) for p in _QUAD.vertices),
    (
        *((0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 5, 4)),
        *((1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)),
    ),
    (
        *((0, 1, 3, 4), (1, 2, 0, 5), (2, 3, 1, 6), (3, 0, 2, 7)),
        *((4, 7, 5, 0), (5, 4, 6, 1), (6, 5, 7, 2), (7, 6, 4, 3)),
    ),
    (0, 3, 2, 1, 4, 7, 6, 5),
    (
        *((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6)),
        *((6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)),
    ),
)
_HEXAHEDRON_FACES = (
    *((0, 3, 7, 4), (1, 2, 6, 5), (0, 1, 5, 4)),
    *((3, 2, 6, 7), (0, 1, 2, 3), (4, 5, 6, 7)),
)


def _curved(base: CellType, name: str, *middles: tuple[int, ...]) -> CellType:
    return dataclasses.replace(base, name=name, nodes=base.nodes + middles, order=2)


_RING = ((0, 1), (1, 2), (2, 3), (3, 0))
CELL_TYPES = {
    t.name: t
    for t in (
        _LINE,
        _TRIANGLE,
        _QUAD,
        _TETRA,
        _HEXAHEDRON,
        _curved(_LINE, "line3", (0, 1)),
        _curved(_TRIANGLE, "triangle6", (0, 1), (1, 2), (0, 2)),
        _curved(_QUAD, "quad8", *_RING),
        _curved(_QUAD, "quad9", *_RING, (0, 1, 2, 3)),
        _curved(_TETRA, "tetra10", *_TETRA.edges),
        _curved(_HEXAHEDRON, "hexahedron20", *_HEXAHEDRON.edges),
        _curved(
            _HEXAHEDRON,
            "hexahedron27",
            *_HEXAHEDRON.edges,
            *_HEXAHEDRON_FACES,
            tuple(range(8)),
        ),
    )
}
SECOND_ORDER = {
    "line": "line3",
    "triangle": "triangle6",
    "quad": "quad9",
    "tetra": "tetra10",
    "hexahedron": "hexahedron27",
}  # straight cell -> the cell that has a node wherever P2 and Q2 have an unknown
STRAIGHT = {
    t.name: next(s.name for s in CELL_TYPES.values() if s.vertices == t.vertices)
    for t in CELL_TYPES.values()
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


def match_rows(there: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """For each row, the number of a row of `there` with the same numbers, or -1."""
    if not len(there) or not len(rows):
        return np.full(len(rows), -1)
    keys = row_keys(np.concatenate([there, rows]), n)
    known, wanted = keys[: len(there)], keys[len(there) :]
    order = np.argsort(known, kind="stable")
    at = np.searchsorted(known[order], wanted).clip(max=len(known) - 1)
    return np.where(known[order][at] == wanted, order[at], -1)


def subsets(rows: np.ndarray, size: int) -> np.ndarray:
    """Every choice of `size` columns: `(n, choices, size)`."""
    choices = list(itertools.combinations(range(rows.shape[1]), size))
    return rows[:, choices]
