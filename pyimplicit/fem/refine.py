"""Finer meshes, and meshes of second order, from the middles of edges, faces and cells."""

import numpy as np

from .cells import CELL_TYPES, SECOND_ORDER, CellType
from .elements import Lagrange
from .mesh import Mesh
from .numbering import Numbering, number


# Children of a cell, by the nodes of the second-order cell. Of a tetrahedron's inner
# octahedron, cut along the diagonal (6, 8), all pieces are similar to one of at most three
# shapes, however often it is done (Bey 1995, doi:10.1007/BF02238487).
_CHILDREN = {
    "line": ((0, 2), (2, 1)),
    "triangle": ((0, 3, 5), (3, 1, 4), (5, 4, 2), (3, 4, 5)),
    "quad": ((0, 4, 8, 7), (4, 1, 5, 8), (8, 5, 2, 6), (7, 8, 6, 3)),
    "tetra": (
        *((0, 4, 6, 7), (4, 1, 5, 8), (6, 5, 2, 9), (7, 8, 9, 3)),
        *((4, 6, 7, 8), (4, 6, 8, 5), (6, 7, 8, 9), (6, 8, 9, 5)),
    ),
}


def refine(mesh: Mesh, times: int) -> Mesh:
    """Each cell in 2^dim; regions and boundaries go to the children."""
    if not isinstance(times, (int, np.integer)) or times < 0:
        raise ValueError(
            f"`mesh.refine(times)` must be a whole number of at least 0.\nGot {times!r}.\n"
            "Pass e.g. 2."
        )
    for _ in range(times):
        mesh = _refine_once(mesh)
    return mesh


def _refine_once(mesh: Mesh) -> Mesh:
    kind, middles = _middles(mesh, "refine()")
    children = _children(kind)
    nodes = middles.cell_dofs
    boundaries = {}
    for name in mesh.boundaries:
        rows = mesh.boundary_rows(name)
        boundaries[name] = _refine_rows(rows, middles, kind)
    regions = {
        name: (cells[:, None] * len(children) + np.arange(len(children))).ravel()
        for name, cells in mesh.regions.items()
    }
    cells = nodes[:, children].reshape(-1, kind.n_vertices)
    points = _points(mesh, middles)
    return Mesh.from_arrays(
        points, {kind.name: cells}, regions, boundaries, connected=mesh.connected
    )


def second_order(mesh: Mesh, move) -> Mesh:
    kind, middles = _middles(mesh, "second_order()")
    points = _points(mesh, middles)
    if move is not None:
        moved = np.asarray(move(points), np.float64)
        if moved.shape != points.shape:
            raise ValueError(
                f"`second_order(move)` must return shape {points.shape}.\n"
                f"Got {moved.shape}.\nReturn one row for each point."
            )
        points = moved
    facet = len(kind.facets[0])
    boundaries = {}
    for name in mesh.boundaries:
        rows = mesh.boundary_rows(name)
        boundaries[name] = middles.at_points[rows]
        if rows.shape[1] == facet > 1:
            boundaries[name] = _facet_nodes(rows, middles)
    return Mesh.from_arrays(
        points,
        {SECOND_ORDER[kind.name]: middles.cell_dofs},
        mesh.regions,
        boundaries,
        connected=mesh.connected,
    )


def _middles(mesh: Mesh, what: str) -> tuple[CellType, Numbering]:
    if len(mesh.cells) > 1 or any(CELL_TYPES[name].order > 1 for name in mesh.cells):
        raise ValueError(
            f"`mesh.{what}` must get straight cells of one type.\n"
            f"Got {' and '.join(map(repr, mesh.cells))}.\n"
            "Make it before the mesh is curved."
        )
    (name,) = mesh.cells
    cell = CELL_TYPES[SECOND_ORDER[name]]
    return CELL_TYPES[name], number(mesh, Lagrange(name, cell))


def _points(mesh: Mesh, middles: Numbering) -> np.ndarray:
    points = np.empty((middles.n_dofs, mesh.dim))
    for rows, dofs in middles.places.values():
        points[dofs] = mesh.points[rows].mean(axis=1)
    return points


def _children(kind: CellType) -> np.ndarray:
    """By nodes of the second-order cell, `(2^dim, n_vertices)`."""
    if kind.name in _CHILDREN:
        return np.array(_CHILDREN[kind.name])
    half = CELL_TYPES[SECOND_ORDER[kind.name]].points  # a cube: halve each coordinate
    corners = np.array(kind.vertices) / 2
    at = lambda x: int(np.abs(half - x).sum(axis=1).argmin())
    return np.array([[at(low + x) for x in corners] for low in corners])


def _refine_rows(rows, middles: Numbering, kind: CellType) -> np.ndarray:
    """The facets, edges or single nodes that make up those given."""
    k = rows.shape[1]
    if k == 1:
        return middles.at_points[rows]
    return _facet_nodes(rows, middles)[:, _CHILDREN[_FACET[k]]].reshape(-1, k)


_FACET = {2: "line", 3: "triangle", 4: "quad"}  # by vertices


def _facet_nodes(rows, middles: Numbering) -> np.ndarray:
    """The second-order nodes of facets or edges, by their vertices."""
    nodes = CELL_TYPES[SECOND_ORDER[_FACET[rows.shape[1]]]].nodes
    return np.stack([middles.at(rows[:, list(node)]) for node in nodes], axis=1)
