"""A mesher for simple polygons, convex or not.

Points are laid along the edges and on a triangular lattice whose triangles are split in
four until they are as small as wanted there, then relaxed and triangulated (Delaunay,
by Qhull). Wanted is a size that grows linearly away from the corners, from the points
given to `refine`, and from the points on the edges (Persson 2006, Engineering with
Computers 22, doi:10.1007/s00366-006-0014-1).
"""

import numpy as np

from . import planar
from .mesh import Mesh
from .triangulation import constrain, delaunay, interior, missing, relax


_RELAXATIONS = 12
_REPAIRS = 5


def polygon(corners, size, points_per_edge, refine, refine_size, growth) -> Mesh:
    """Triangles that fill the polygon; one boundary, "boundary".

    - `corners`: `(n, 2)`, in order, either way round; not closed. Corners with an angle
      of 180 degrees are allowed. Corner i is node i of the mesh.
    - `size`: the largest wanted edge length. [length]
    - `points_per_edge`: the smallest number of mesh edges on an edge of the polygon.
      They grow from the corners to the middle.
    - `refine`: `(m, 2)`, points inside that become nodes, node n + j for point j.
    - `refine_size`: edge length there, `size / 4` if not given. [length]
    - `growth`: by how much an edge length may grow per length.

    The area is the polygon's to rounding. **Errors:** fewer than three corners, corners
    that coincide, edges that cross or touch: each is named by number.
    """
    corners = planar.check_polygon(corners)
    size = _positive("size", size)
    extent = np.ptp(corners, axis=0)
    if extent.max() > 1e4 * size:
        raise ValueError(
            "`Mesh.polygon(size=...)` must fit the polygon.\n"
            f"Got {size:g} for a polygon of {extent[0]:g} x {extent[1]:g}.\n"
            "Use the unit of the corners."
        )
    growth = _positive("growth", growth)
    if not isinstance(points_per_edge, (int, np.integer)) or points_per_edge < 1:
        raise ValueError(
            "`Mesh.polygon(points_per_edge=...)` must be a positive whole number.\n"
            f"Got {points_per_edge!r}.\nPass e.g. 8."
        )
    points_per_edge = int(points_per_edge)
    refine = _check_refine(refine, corners)
    if refine_size is None:
        refine_size = size / 4
    fine = np.full(len(refine), _positive("refine_size", refine_size))
    at_corner = _corner_sizes(corners, size, points_per_edge, growth)
    wanted = _Size(size, growth)
    wanted.add(corners, at_corner)
    wanted.add(refine, fine)
    edges = [
        _divide(a, b, wanted, points_per_edge)
        for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)
    ]
    rings = [np.linalg.norm(np.diff(edge, axis=0), axis=1) for edge in edges]
    for edge, lengths in zip(edges, rings, strict=True):
        wanted.add((edge[1:] + edge[:-1]) / 2, lengths)
    inner = planar.lattice(corners, wanted, size)
    inner = inner[_clear(inner, corners, refine, wanted)]
    points, cells, boundary = _triangulate(corners, refine, edges, inner)
    return Mesh.from_arrays(points, {"triangle": cells}, boundaries={"boundary": boundary})


class _Size:
    """The wanted edge length: min(size, lengthᵢ + growth |x - xᵢ|) over places xᵢ."""

    def __init__(self, size: float, growth: float):
        self.size, self.growth = size, growth
        self.x, self.h = np.zeros((0, 2)), np.zeros(0)

    def add(self, x, h) -> None:
        self.x, self.h = np.concatenate([self.x, x]), np.concatenate([self.h, h])

    def __call__(self, x) -> np.ndarray:
        out = np.full(len(x), self.size)
        for part in planar.chunks(len(x), len(self.x)):
            away = np.linalg.norm(x[part, None] - self.x, axis=2)
            near = (self.h + self.growth * away).min(axis=1)
            out[part] = np.minimum(self.size, near)
        return out


def _corner_sizes(corners, size, points_per_edge, growth):
    """First edge lengths, of a symmetric geometric grading of the shorter edge."""
    lengths = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    steps = np.arange(points_per_edge)
    weights = (1 + growth) ** np.minimum(steps, steps[::-1])
    first = np.minimum(lengths / weights.sum(), size)
    return np.minimum(first, np.roll(first, 1))


def _divide(a, b, wanted, least: int) -> np.ndarray:
    """Points from a to b whose distances follow the wanted size."""
    t, length = np.linspace(0, 1, 4 * least + 1), np.linalg.norm(b - a)
    while True:  # sample the size finely enough to see it change
        h = wanted(a + t[:, None] * (b - a))
        step = length * np.diff(t)
        split = 2 * (1 + wanted.growth) * step > np.minimum(h[1:], h[:-1])
        if not split.any():
            break
        t = np.sort(np.concatenate([t, (t[1:] + t[:-1])[split] / 2]))
    parts = step * (1 / h[1:] + 1 / h[:-1]) / 2
    count = np.concatenate([[0], np.cumsum(parts)])
    n = max(least, round(count[-1]))
    at = np.interp(np.arange(1, n) / n, count / count[-1], t)
    return np.concatenate([[a], a + at[:, None] * (b - a), [b]])


def _clear(x, corners, refine, wanted):
    """Whether points lie inside, and not too near to the boundary and fixed points."""
    gap = 0.6 * wanted(x)
    clear = planar.inside(x, corners) & (planar.distance(x, corners) > gap)
    for part in planar.chunks(len(x), len(refine)):
        away = np.linalg.norm(x[part, None] - refine, axis=2)
        clear[part] &= (away > gap[part, None]).all(axis=1)
    return clear


def _triangulate(corners, refine, edges, inner):
    """Points (corners, refined, on edges, inner), triangles and boundary edges."""
    outer = [corners, refine, *(edge[1:-1] for edge in edges)]
    start = sum(map(len, outer))
    segments, of_node = _segments(len(corners), len(refine), edges)

    def mesh(constrained: bool):
        points = np.concatenate([*outer, inner])
        cells = delaunay(points)
        if constrained:
            cells = constrain(points, cells, segments[missing(segments, cells)])
        of_points = np.pad(of_node, ((0, len(inner)), (0, 0)), constant_values=-1)
        return points, interior(points, cells, corners, of_points)

    for _ in range(_RELAXATIONS):
        inner = relax(*mesh(False), start)
    for _ in range(_REPAIRS):
        # Drop points that went astray, and those too near to edges that Delaunay's
        # triangulation leaves out; what is still left out is forced in.
        points, cells = mesh(False)
        ends = points[segments[missing(segments, cells)]]
        middle = ends.mean(axis=1)
        reach = np.linalg.norm(ends[:, 1] - middle, axis=1) * 1.0001
        bad = ~np.isin(np.arange(start, len(points)), cells)
        for part in planar.chunks(len(inner), len(ends)):
            away = np.linalg.norm(inner[part, None] - middle, axis=2)
            bad[part] |= (away < reach).any(axis=1)
        if not bad.any():
            break
        inner = inner[~bad]
    try:
        points, cells = mesh(True)
        wanted = abs(planar.area(corners))
        held = not missing(segments, cells).size
        held &= abs(_area(points, cells) - wanted) <= 1e-12 * wanted
    except (KeyError, ValueError):
        held = False
    if not held:
        raise ValueError(
            "`Mesh.polygon(corners)` must not be narrow beyond rounding.\n"
            "Got a polygon with edges that no triangulation found holds.\n"
            "Widen its narrowest part, or mesh it with gmsh and use `Mesh.read`."
        )
    return points, cells, segments


def _area(points, cells) -> float:
    a, b, c = points[cells].swapaxes(0, 1)
    return planar.cross(b - a, c - a).sum() / 2


def _segments(n: int, n_refine: int, edges):
    """The boundary edges by node, `(n_segments, 2)`, and for each node on the boundary or
    refined which polygon edges it lies on, `(n_nodes, 2)`, else -1."""
    sizes = [len(edge) - 2 for edge in edges]
    number = n + n_refine + np.cumsum([0, *sizes])
    of_node = np.full((number[-1], 2), -1)
    of_node[:n] = np.stack([np.arange(n) - 1, np.arange(n)], axis=1) % n
    segments = []
    for e in range(n):
        own = np.arange(number[e], number[e + 1])
        chain = np.array([e, *own, (e + 1) % n])
        segments.append(np.stack([chain[:-1], chain[1:]], axis=1))
        of_node[own, 0] = e
    return np.concatenate(segments), of_node


def _positive(name: str, value) -> float:
    if not np.ndim(value) == 0 or not np.isfinite(value) or value <= 0:
        raise ValueError(
            f"`Mesh.polygon({name}=...)` must be a positive number.\nGot {value!r}.\n"
            "Pass it in the unit of the corners."
        )
    return float(value)


def _check_refine(refine, corners) -> np.ndarray:
    refine = np.array(refine, np.float64).reshape(-1, 2)
    bad = ~planar.inside(refine, corners)
    bad |= planar.distance(refine, corners) <= 1e-9 * np.ptp(corners, axis=0).max()
    if bad.any():
        i = np.flatnonzero(bad)[0]
        raise ValueError(
            "`Mesh.polygon(refine=...)` must be points inside the polygon.\n"
            f"Got {refine[i].tolist()} as point {i}.\n"
            "A point on an edge can be made a corner, with an angle of 180 degrees."
        )
    return refine
