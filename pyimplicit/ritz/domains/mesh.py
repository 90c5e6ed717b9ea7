"""Meshes as domains."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ...fem.cells import CELL_TYPES
from ...fem.mesh import Mesh
from .facets import pieces
from .pieces import PiecewiseDomain
from .polygon import to_segments


MOST_PLANES = 12  # of a product: more would make it tiny almost everywhere


class MeshDomain(PiecewiseDomain):
    """The domain of a `fem.Mesh`: Gauss rules in each cell, straight or curved.

    Cells: lines, triangles, quads (as two triangles), tetrahedra; of second order all but
    quads. `distance`: a function of one point that vanishes on the boundary. If None it
    is a product of planes where the domain is convex with a few faces, and made of its
    edges as for `Polygon` in the plane; other domains need one for `Exact`.
    """

    def __init__(self, mesh: Mesh, distance: Callable | None = None):
        self.mesh = mesh
        points = np.asarray(mesh.points)
        blocks = [_simplices(name, np.asarray(c), points) for name, c in mesh.cells.items()]
        cells, bend = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
        curved = bend.size > 0 and np.abs(bend).max() > 0
        super().__init__(*pieces(points, cells, bend if curved else None))
        self._distance = self._default() if distance is None else distance

    def distance(self, x):
        if self._distance is None:
            raise ValueError(
                "A mesh has a distance function of its own only if it is straight, and in "
                "the plane or convex with at most "
                f"{MOST_PLANES} faces.\nGot {self.mesh!r}.\nPass MeshDomain(mesh, "
                "distance=...), or take ritz.Nitsche or ritz.Penalty instead of Exact."
            )
        return self._distance(x)

    def contains(self, x):
        if self.inside.bend is None:
            return super().contains(x)
        raise ValueError(
            "`contains` knows straight cells only.\nGot a mesh with curved cells.\n"
            "Take the mesh without its middle nodes."
        )

    def _default(self) -> Callable[[jax.Array], jax.Array] | None:
        if self.inside.bend is not None:
            return None
        facets = np.arange(len(self.around.vertices))
        x, n, _ = self.around.place(facets, np.zeros((len(facets), self.dim - 1)))
        size = np.abs(x).max()
        planes = np.concatenate([n, (n * x).sum(axis=1, keepdims=True)], axis=1)
        planes = planes[np.unique(np.round(planes / [*[1] * self.dim, size], 9),
                                  axis=0, return_index=True)[1]]  # fmt: skip
        n, offset = planes[:, :-1], planes[:, -1]
        convex = (self.mesh.points @ n.T <= offset + 1e-9 * size).all()
        if convex and len(planes) <= MOST_PLANES:
            middle = offset - n @ x.mean(axis=0)
            deep = middle.min()
            return lambda x: deep * jnp.prod((offset - n @ x) / middle)
        if self.dim != 2:
            return None
        a, b = _merged(self.around.vertices, self.around.side)
        return lambda x: to_segments(x, jnp.asarray(a, x.dtype), jnp.asarray(b, x.dtype))


def _simplices(name: str, cells, points):
    """A block of cells as simplices, and the bends of their edges."""
    kind, dim = CELL_TYPES[name], points.shape[1]
    n_edges = dim * (dim + 1) // 2
    if name == "quad":
        cells = np.concatenate([cells[:, [0, 1, 2]], cells[:, [0, 2, 3]]])
        return cells, np.zeros((len(cells), n_edges, dim))
    if not kind.simplex:
        raise ValueError(
            "`MeshDomain(mesh)` must have lines, triangles, straight quads or tetrahedra."
            f"\nGot {name!r}.\nMake the mesh of simplices."
        )
    n, bend = kind.n_vertices, np.zeros((len(cells), n_edges, dim))
    if kind.order == 1:
        return cells, bend
    i, j = np.triu_indices(n, 1)
    for e, pair in enumerate(zip(i, j, strict=True)):
        middle = next(k for k, node in enumerate(kind.nodes) if {*node} == {*pair})
        ends = points[cells[:, list(pair)]].mean(axis=1)
        bend[:, e] = points[cells[:, middle]] - ends
    return cells[:, :n], bend


def _merged(edges: np.ndarray, side) -> tuple[np.ndarray, np.ndarray]:
    """Edges `(n, 2, 2)` with those on one line that meet made one."""
    turned = np.where((side < 0)[:, None, None], edges[:, ::-1], edges)
    key = lambda p: tuple(np.round(p / np.abs(edges).max(), 10) + 0.0)
    follows = {key(a): b for a, b in turned}
    unit = lambda a, b: (b - a) / np.linalg.norm(b - a)
    ends = {key(b): unit(a, b) for a, b in turned}
    starts, stops = [], []
    for a, b in turned:
        before = ends[key(a)]
        if before @ unit(a, b) > 1 - 1e-12:
            continue
        last = b
        while unit(last, follows[key(last)]) @ unit(a, b) > 1 - 1e-12:
            last = follows[key(last)]
        starts.append(a)
        stops.append(last)
    return np.array(starts), np.array(stops)
