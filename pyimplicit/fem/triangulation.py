"""Triangulations of point sets that hold the edges of a polygon."""

import numpy as np

from .cells import row_keys
from .planar import cross, inside


def delaunay(points) -> np.ndarray:
    """Delaunay triangles of the points (Qhull), counterclockwise."""
    from scipy.spatial import Delaunay

    cells = Delaunay(points).simplices.astype(np.int64)
    a, b, c = points[cells].swapaxes(0, 1)
    clockwise = cross(b - a, c - a) < 0
    cells[clockwise] = cells[clockwise][:, [0, 2, 1]]
    return cells


def interior(points, cells, corners, edges_of_node) -> np.ndarray:
    """The triangles inside the polygon, without those flat on one of its edges.

    `edges_of_node`: `(n_points, 2)`, the polygon edges that a node lies on, or -1.
    """
    a, b, c = (edges_of_node[k] for k in cells.T)
    on = lambda e, f: (e[:, None] == f).any(axis=1) & (e >= 0)
    flat = np.zeros(len(cells), bool)
    for e in a.T:
        flat |= on(e, b) & on(e, c)
    cells = cells[~flat]
    return cells[inside(points[cells].mean(axis=1), corners)]


def relax(points, cells, start: int) -> np.ndarray:
    """The points from `start` on, each moved to the mean of its neighbours."""
    pairs = cells[:, [[0, 1], [1, 2], [2, 0], [1, 0], [2, 1], [0, 2]]].reshape(-1, 2)
    total = np.zeros_like(points)
    np.add.at(total, pairs[:, 0], points[pairs[:, 1]])
    count = np.bincount(pairs[:, 0], minlength=len(points))
    moved = total[start:] / np.maximum(count[start:, None], 1)
    return np.where(count[start:, None] > 0, moved, points[start:])


def missing(segments, cells) -> np.ndarray:
    """Numbers of the segments that are no edge of a triangle."""
    edges = cells[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    n = max(segments.max(), cells.max()) + 1
    keys = row_keys(np.concatenate([segments, edges]), n)
    return np.flatnonzero(~np.isin(keys[: len(segments)], keys[len(segments) :]))


def constrain(points, cells, segments) -> np.ndarray:
    """The triangulation with `segments` among its edges.

    The triangles that a missing segment crosses leave a hole on each side of it, which is
    filled by triangles whose circumcircles hold no other corner of the hole (Anglada
    1997, Computers & Graphics 21, doi:10.1016/S0097-8493(96)00085-4). `KeyError` or
    `ValueError` where rounding hides what is left and right of a segment.
    """
    for a, b in segments:
        direction = points[b] - points[a]
        side = np.sign(cross(direction, points - points[a]))
        reach = np.zeros(len(cells), bool)
        for i, j in ((0, 1), (1, 2), (2, 0)):
            p, q = points[cells[:, i]], points[cells[:, j]]
            splits = side[cells[:, i]] * side[cells[:, j]] < 0
            ends = cross(q - p, points[a] - p) * cross(q - p, points[b] - p) < 0
            reach |= splits & ends
        if reach.any():
            upper, lower = _chains(cells[reach].tolist(), a, b, side)
            new = _fill(points, a, b, upper) + _fill(points, b, a, lower[::-1])
            cells = np.concatenate([cells[~reach], np.array(new, np.int64)])
    return cells


def _chains(cells: list, a: int, b: int, side):
    """The corners of the crossed triangles left and right of ab, from a to b."""
    across = {
        (t[k], t[k - 2]): t[k - 1] for t in cells for k in range(3)
    }  # edge -> third corner of the triangle left of it
    starts = [e for e, apex in across.items() if apex == a and side[e[0]] < 0]
    ((right, left),) = [e for e in starts if side[e[1]] > 0]
    upper, lower = [left], [right]
    for _ in cells:
        apex = across[left, right]
        if apex == b:
            return upper, lower
        if side[apex] > 0:
            left = apex
            upper.append(left)
        else:
            right = apex
            lower.append(right)
    raise KeyError("the triangles do not lead from a to b")


def _fill(points, a: int, b: int, chain: list) -> list:
    """Triangles between the segment ab and a chain of points on its left."""
    if not chain:
        return []
    best = 0
    for k in range(1, len(chain)):
        if _in_circle(*points[[a, b, chain[best], chain[k]]]):
            best = k
    c = chain[best]
    before, after = chain[:best], chain[best + 1 :]
    return [[a, b, c], *_fill(points, a, c, before), *_fill(points, c, b, after)]


def _in_circle(a, b, c, d) -> bool:
    """Whether d lies in the circumcircle of the counterclockwise triangle abc."""
    rows = np.stack([a, b, c]) - d
    return np.linalg.det(np.column_stack([rows, (rows**2).sum(axis=1)])) > 0
