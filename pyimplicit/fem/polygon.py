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


_RELAXATIONS = 12
_REPAIRS = 40


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
    return Mesh.from_arrays(
        points, {"triangle": cells}, boundaries={"boundary": boundary}
    )


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
    t = np.linspace(0, 1, 64 * least + 1)
    density = 1 / wanted(a + t[:, None] * (b - a))
    count = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    n = max(least, round(count[-1] * np.linalg.norm(b - a) * t[1]))
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
    fixed = np.concatenate([corners, refine])
    for repair in range(_REPAIRS):
        on_edges = [edge[1:-1] for edge in edges]
        start = len(fixed) + sum(map(len, on_edges))
        points = np.concatenate([fixed, *on_edges, inner])
        segments, side = _segments(len(corners), len(fixed), on_edges)
        cells = planar.delaunay(points, corners, side)
        for _ in range(_RELAXATIONS if repair == 0 else 0):
            points[start:] = planar.relax(points, cells, start)
            cells = planar.delaunay(points, corners, side)
        missing = planar.missing(segments, cells, len(points))
        unused = np.setdiff1d(np.arange(len(points)), cells)
        if not missing.size and not unused.size:
            return points, cells, segments
        # Make room around the edges that Delaunay left out: drop inner points, and
        # where there are none halve the edges.
        inner = points[start:]
        ends = points[segments[missing]]
        centre, radius = (
            ends.mean(axis=1),
            np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1),
        )
        near = np.linalg.norm(inner[:, None] - centre, axis=2) < 0.5001 * radius
        keep = ~near.any(axis=1) & ~np.isin(np.arange(start, len(points)), unused)
        inner = inner[keep]
        for e in side[1][missing[~near.any(axis=0)]]:
            middle = (edges[e][1:] + edges[e][:-1]) / 2
            edges[e] = np.insert(edges[e], np.arange(1, len(edges[e])), middle, axis=0)
    raise ValueError(
        "`Mesh.polygon` must find a triangulation that holds the polygon's edges.\n"
        f"Got none in {_REPAIRS} repairs.\n"
        "Widen parts that are narrow beyond rounding, or mesh with gmsh and "
        "`Mesh.read`."
    )


def _segments(n_corners, start, on_edges):
    """The boundary edges by node, `(n, 2)`, and which polygon edge: of each node on the
    inside of one (else -1), and of each boundary edge."""
    number = start + np.cumsum([0, *map(len, on_edges)])
    segments, of_node, of_segment = [], np.full(number[-1], -1), []
    for e, points in enumerate(on_edges):
        own = np.arange(number[e], number[e] + len(points))
        chain = np.array([e, *own, (e + 1) % n_corners])
        segments.append(np.stack([chain[:-1], chain[1:]], axis=1))
        of_node[own] = e
        of_segment += [e] * (len(chain) - 1)
    return np.concatenate(segments), (of_node, np.array(of_segment))


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
