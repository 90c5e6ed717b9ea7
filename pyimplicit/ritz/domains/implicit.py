"""Domains where a function is negative."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .facets import pieces
from .pieces import PiecewiseDomain


class Implicit(PiecewiseDomain):
    r"""{x: φ(x) < 0} in the box from `lower` to `upper`, in two or three dimensions.

    `phi`: a function of one point `(dim,)`; a signed distance, or any that is smooth near
    its zeros and has slope there. `cells`: of the grid along each axis. Simplices of the
    grid are cut where φ changes its sign; edges on the boundary are bent onto it, so that
    volumes have errors of the order h⁴. Parts thinner than a cell may be lost, and what
    leaves the box is cut off there.

    `distance`: -φ / √(φ² + |∇φ|²), of slope one on the boundary (Rvachev, see Shapiro
    2007, doi:10.1017/S096249290631001X); smooth if φ is, which a true distance is not.
    It is not zero where the box cuts the domain.
    """

    def __init__(self, phi: Callable, lower, upper, cells: int = 16):
        lower, upper = (np.asarray(a, np.float64) for a in (lower, upper))
        if lower.shape != upper.shape or lower.shape not in ((2,), (3,)):
            raise ValueError(
                "`Implicit(phi, lower, upper)` must have two corners of 2 or 3 numbers.\n"
                f"Got shapes {lower.shape} and {upper.shape}.\nPass e.g. [-1, -1], [1, 1]."
            )
        if not (upper > lower).all() or not isinstance(cells, int) or cells < 2:
            raise ValueError(
                "`Implicit(phi, lower, upper, cells)` must have lower < upper and at least "
                f"two cells.\nGot {lower.tolist()}, {upper.tolist()} and {cells!r}.\n"
                "Take a box around the domain, and e.g. cells=16."
            )
        self.phi = phi
        level = _Level(phi)
        super().__init__(*pieces(*_cut(level, lower, upper, cells)))

    def distance(self, x):
        value, slope = jax.value_and_grad(self.phi)(x)
        return -value / jnp.sqrt(value**2 + slope @ slope)

    def contains(self, x):
        return self.phi(x) < 0


class _Level:
    """φ and how points are moved onto φ = 0, for many points."""

    def __init__(self, phi: Callable):
        def newton(x):
            value, slope = jax.value_and_grad(phi)(x)
            return x - value * slope / jnp.maximum(slope @ slope, 1e-300)

        def between(a, b):
            """The zero on the segment, by bisection; φ(a) <= 0 < φ(b)."""

            def halve(_, ends):
                low, high = ends
                t = (low + high) / 2
                above = phi(a + t * (b - a)) > 0
                return jnp.where(above, low, t), jnp.where(above, t, high)

            low, high = jax.lax.fori_loop(0, 50, halve, (0.0, 1.0))
            return a + (low + high) / 2 * (b - a)

        def onto(x):
            return newton(newton(newton(newton(x))))

        self.value, self.onto, self.between = (
            lambda *args, fn=fn: np.array(jax.jit(jax.vmap(fn))(*args), np.float64)
            for fn in (phi, onto, between)
        )


def _cut(level: _Level, lower, upper, cells: int):
    """Points, simplices and bends of the part of the grid where φ < 0."""
    points, simplices = _grid(lower, upper, cells)
    n, h = len(points), ((upper - lower) / cells).min()
    value = level.value(points)
    # Vertices close to the boundary are moved onto it, lest slivers are cut off.
    near = level.onto(points)
    off = np.linalg.norm(near - points, axis=1)
    edge = ((points == lower) | (points == upper)).any(axis=1)
    snap = (off < 0.2 * h) & ~edge & np.isfinite(near).all(axis=1)
    points[snap], value[snap] = near[snap], 0.0
    out = value[simplices] > 0
    whole = simplices[~out.any(axis=1) & (value[simplices] < 0).any(axis=1)]
    mixed = out.any(axis=1) & (value[simplices] < 0).any(axis=1)
    parts, pairs = [whole], []
    for count in range(1, simplices.shape[1]):
        rows = simplices[mixed & (out.sum(axis=1) == count)]
        positive = value[rows] > 0
        inner = np.take_along_axis(rows, np.argsort(positive, 1, kind="stable"), 1)
        for path in _staircases(simplices.shape[1] - count, count):
            ends = np.array([(i, simplices.shape[1] - count + j - 1 if j else i)
                             for i, j in path])  # fmt: skip
            pairs.append(inner[:, ends])  # (m, dim + 1, 2): vertices, or edges that are cut
    if not len(whole) and not any(map(len, pairs)):
        raise ValueError(
            "`Implicit(phi, ...)` must be negative somewhere in the box.\n"
            f"Got least value {value.min():.3g} on the grid.\nφ < 0 is the inside; take a "
            "box around it, or more cells."
        )
    if pairs:
        ends = np.concatenate(pairs)
        a, b = ends[..., 0], ends[..., 1]
        b = np.where(value[a] == 0, a, b)  # the zero is the vertex itself
        edges, number = np.unique(np.stack([a, b], -1).reshape(-1, 2), axis=0,
                                  return_inverse=True)  # fmt: skip
        cut = edges[:, 0] != edges[:, 1]
        at = np.where(cut, n - 1 + np.cumsum(cut), edges[:, 0])
        new = level.between(points[edges[cut, 0]], points[edges[cut, 1]])
        points = np.concatenate([points, new])
        value = np.concatenate([value, np.zeros(len(new))])
        parts.append(at[number.ravel()].reshape(a.shape))
    cells_ = np.concatenate(parts)
    rows = np.sort(cells_, axis=1)
    cells_ = cells_[(rows[:, 1:] != rows[:, :-1]).all(axis=1)]
    return points, cells_, _bends(level, points, cells_, value)


def _grid(lower, upper, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of a grid, and Kuhn's simplices: paths along the axes in every order."""
    dim = len(lower)
    axes = [np.linspace(a, b, cells + 1) for a, b in zip(lower, upper, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dim)
    strides = (cells + 1) ** np.arange(dim)[::-1]
    corner = np.stack(np.meshgrid(*[np.arange(cells)] * dim, indexing="ij"), -1)
    corner = corner.reshape(-1, dim) @ strides
    steps = [np.cumsum([0, *strides[list(p)]]) for p in itertools.permutations(range(dim))]
    return points, np.concatenate([corner[:, None] + step for step in steps])


def _staircases(a: int, b: int):
    """The simplices of Δ^(a-1) × Δ^b: monotone paths from (0, 0) to (a - 1, b)."""
    for ups in itertools.combinations(range(a - 1 + b), b):
        i = j = 0
        path = [(0, 0)]
        for k in range(a - 1 + b):
            i, j = (i, j + 1) if k in ups else (i + 1, j)
            path.append((i, j))
        yield path


def _bends(level: _Level, points, cells, value):
    """Off its straight middle lies the middle of an edge of the boundary, φ = 0."""
    _, around = pieces(points, cells, None)
    index = {tuple(p): i for i, p in enumerate(points)}
    facets = np.array([[index[tuple(p)] for p in facet] for facet in around.vertices])
    k = facets.shape[1]
    pairs = lambda rows, m: np.stack(
        [np.sort(rows[:, list(p)], 1) for p in itertools.combinations(range(m), 2)], 1
    )
    outer = pairs(facets, k).reshape(-1, 2)
    outer = outer[(value[outer] == 0).all(axis=1)]
    mine = pairs(cells, cells.shape[1])  # (m, edges, 2)
    key = lambda rows: rows[..., 0] * len(points) + rows[..., 1]
    known, first = np.unique(key(outer), return_index=True)
    middle = points[outer[first]].mean(axis=1)
    off = level.onto(middle) - middle
    place = np.searchsorted(known, key(mine)).clip(max=len(known) - 1)
    return np.where((known[place] == key(mine))[..., None], off[place], 0.0)
