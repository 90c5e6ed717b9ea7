"""Plane domains with straight edges: polygons, the L, the square with a slit."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ...fem.planar import area, check_polygon, cross
from .corner import Corner
from .pieces import Pieces, PiecewiseDomain


class Polygon(PiecewiseDomain):
    """A simple polygon by its corners `(n, 2)`, in order, either way round. Points on a
    straight side are left out.

    `corners`: the re-entrant ones, as `Corner`; Gauss rules are graded towards them.
    `distance`: a product of lines for convex polygons. Else R-equivalence of distances
    to the edges (Sukumar, Srivastava 2022, Eq. (9) and (23),
    doi:10.1016/j.cma.2021.114333), times r^(π/ω - 1) at each re-entrant corner, so that a
    solution over it is bounded there.
    """

    corners: tuple[Corner, ...]

    def __init__(self, corners):
        v = check_polygon(corners)
        v = v if area(v) > 0 else v[::-1].copy()
        # Of two sides on one line `distance` would be the square.
        bent = np.abs(_angles(v)[0] - np.pi) > 1e-9
        self.vertices = v[bent]
        angles, starts = _angles(self.vertices)
        deep = angles > np.pi + 1e-9
        self.corners = tuple(
            Corner((float(x), float(y)), float(w), float(s))
            for (x, y), w, s in zip(
                self.vertices[deep], angles[deep], starts[deep], strict=True
            )
        )
        inside, grade = _graded(_ears(self.vertices), self.vertices[deep])
        ends = np.stack([self.vertices, np.roll(self.vertices, -1, axis=0)], axis=1)
        super().__init__(Pieces(inside, grade=grade), _facets(ends, self.vertices[deep]))

    def distance(self, x):
        a = jnp.asarray(self.vertices, x.dtype)
        b = jnp.roll(a, -1, axis=0)
        if not self.corners:
            along = (b - a) / jnp.linalg.norm(b - a, axis=1, keepdims=True)
            lines = cross(along, x - a)
            # Of slope one or so: over the means of the lines in the middle.
            middle = cross(along, a.mean(axis=0) - a)
            return jnp.min(middle) * jnp.prod(lines / middle)
        D = to_segments(x, a, b)
        for corner in self.corners:
            r, _ = corner.polar(x)
            size = math.sqrt(self.volume)
            D = D * jnp.where(r > 0, (r / (r + size)), 1.0) ** (corner.power - 1)
        return D


class _Cut(PiecewiseDomain):
    """(-1, 1)² less a wedge at the origin, star-shaped about it. All triangles meet
    there."""

    corner: Corner
    grade: float

    def __init__(self, opening: float, ring: np.ndarray, edges, shift=None):
        self.corner = Corner((0.0, 0.0), opening)
        self.corners = (self.corner,)
        tip = np.zeros_like(ring[:-1])
        inside = np.stack([tip, ring[:-1], ring[1:]], axis=1)
        graded = np.full(len(inside), self.grade)
        around = _facets(np.asarray(edges, np.float64), np.zeros((1, 2)), self.grade)
        super().__init__(Pieces(inside, grade=graded), around._replace(shift=shift))

    def distance(self, x):
        return self.corner(x)[1] * jnp.prod(1 - x**2)


class Slit(_Cut):
    """The square (-1, 1)² less the slit [0, 1) × {0}, of the Deep Ritz paper.

    Both faces of the slit belong to the boundary; their nodes lie 1e-12 off it, above and
    below. `corner`: r^(1/2) (cos θ/2, sin θ/2) at the tip. `distance`: r^(1/2) sin(θ/2)
    (1 - x²)(1 - y²): near the tip solutions with zero boundary values are this times a
    function of the two values of `corner`, a smooth one. Gauss rules are exact for
    polynomials in r^(1/2), so also for energies with the tip's singularity.
    """

    grade = 2.0

    def __init__(self):
        ring = _square(8)
        sides = [((1, 0), (1, 1)), ((1, 1), (-1, 1)), ((-1, 1), (-1, -1)),
                 ((-1, -1), (1, -1)), ((1, -1), (1, 0))]  # fmt: skip
        faces = [((0, 0), (1, 0)), ((1, 0), (0, 0))]  # above, below
        shift = np.zeros((7, 2))
        shift[5:, 1] = 1e-12, -1e-12
        super().__init__(2 * np.pi, ring, sides + faces, shift)

    def contains(self, x):
        on = (x[1] == 0) & (x[0] >= 0)
        return jnp.all(jnp.abs(x) < 1) & ~on


class LShape(_Cut):
    """The L-shaped domain (-1, 1)² less [0, 1) × (-1, 0].

    `corner`: r^(2/3) (cos, sin)(2θ/3) at the re-entrant corner, the origin. `distance`:
    r^(2/3) sin(2θ/3) (1 - x²)(1 - y²). Gauss rules are exact for polynomials in r^(1/3).
    """

    grade = 3.0

    def __init__(self):
        ring = _square(6)
        edges = [((1, 0), (1, 1)), ((1, 1), (-1, 1)), ((-1, 1), (-1, -1)),
                 ((-1, -1), (0, -1)), ((0, -1), (0, 0)), ((0, 0), (1, 0))]  # fmt: skip
        super().__init__(1.5 * np.pi, ring, edges)

    def contains(self, x):
        return jnp.all(jnp.abs(x) < 1) & ((x[0] < 0) | (x[1] > 0))


def to_segments(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """About the distance to the nearest of the segments from `a` to `b`, `(n, 2)`: zero on
    them, smooth elsewhere, of slope one beside them."""
    along, y = b - a, x - (a + b) / 2
    length = jnp.linalg.norm(along, axis=1)
    f = cross(along, y) / length
    trim = ((length / 2) ** 2 - jnp.sum(y * y, axis=1)) / length
    inner = _root(trim**2 + f**4) - trim
    each = f**2 + inner**2 / 4
    on = each <= 0
    inverse = 1 / jnp.sqrt(jnp.where(on, 1.0, each))
    return jnp.where(jnp.any(on), 0.0, 1 / jnp.sum(inverse))


def _root(x):
    """√x with slope zero at zero."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def _square(n: int) -> np.ndarray:
    """`n + 1` points around (-1, 1)², from (1, 0) on, an eighth apart."""
    ring = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0)]
    return np.array(ring[: n + 1], np.float64)


def _angles(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The interior angle at each corner, and the direction of the edge that follows."""
    ahead, back = np.roll(v, -1, axis=0) - v, np.roll(v, 1, axis=0) - v
    start = np.arctan2(ahead[:, 1], ahead[:, 0])
    end = np.arctan2(back[:, 1], back[:, 0])
    return (end - start) % (2 * np.pi), start


def _facets(ends: np.ndarray, tips: np.ndarray, grade: float = 3.0) -> Pieces:
    """Edges `(n, 2, 2)`, the domain on their left, graded towards the tips (no edge has
    two: they are halved)."""
    at = lambda p: (np.abs(p[:, None] - tips).max(axis=2) < 1e-12).any(axis=1)
    if not len(tips):
        return Pieces(ends, grade=np.ones(len(ends)))
    both = at(ends[:, 0]) & at(ends[:, 1])
    middle = ends.mean(axis=1)
    halves = [np.stack([ends[both, 0], middle[both]], 1),
              np.stack([middle[both], ends[both, 1]], 1)]  # fmt: skip
    ends = np.concatenate([ends[~both], *halves])
    first, last = at(ends[:, 0]), at(ends[:, 1])
    turned = np.where(last[:, None, None], ends[:, ::-1], ends)  # the tip comes first
    return Pieces(
        turned,
        grade=np.where(first | last, grade, 1.0),
        side=np.where(last, -1.0, 1.0),
    )


def _graded(triangles: np.ndarray, tips: np.ndarray, grade: float = 3.0):
    """Triangles with the tip first, each halved until it has no two of them."""
    done, powers, left = [], [], list(triangles)
    while left:
        t = left.pop()
        at = [any(np.allclose(p, tip, atol=1e-12) for tip in tips) for p in t]
        if sum(at) < 2:
            i = int(np.argmax(at))
            done.append(np.roll(t, -i, axis=0))
            powers.append(grade if any(at) else 1.0)
            continue
        i, j = (k for k in range(3) if at[k]) if sum(at) == 2 else (0, 1)
        middle, other = (t[i] + t[j]) / 2, t[3 - i - j]
        left += [np.stack([t[i], middle, other]), np.stack([middle, t[j], other])]
    return np.stack(done), np.array(powers)


def _ears(v: np.ndarray) -> np.ndarray:
    """Triangles of a simple polygon, counter-clockwise: the fattest ear is cut off as
    long as there is one (Meisters 1975, doi:10.2307/2319703)."""
    left, found = list(range(len(v))), []
    while len(left) > 3:
        best, at = -1.0, 0
        for k in range(len(left)):
            ear = v[[left[k - 1], left[k], left[(k + 1) % len(left)]]]
            others = v[[i for i in left if not (v[i] == ear).all(axis=1).any()]]
            sides = np.roll(ear, -1, axis=0) - ear
            inside = (cross(sides, others[:, None] - ear) >= 0).all(axis=1).any()
            flat = cross(sides[0], sides[1]) / np.sum(sides**2)
            if not inside and flat > best:
                best, at = flat, k
        ear = [left[at - 1], left[at], left[(at + 1) % len(left)]]
        if best > 1e-12:
            found.append(v[ear])
        left.pop(at)
    return np.stack([*found, v[left]])
