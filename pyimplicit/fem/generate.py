"""Meshes of simple domains."""

import itertools

import numpy as np

from .check import all_facets
from .mesh import Mesh


def interval(n, length, origin) -> Mesh:
    shape, lengths, origin = _check("interval", (n,), (length,), (origin,))
    x, number = _grid(shape, lengths, origin)
    cells = np.stack([number[:-1], number[1:]], axis=-1)
    sides = {"left": number[:1, None], "right": number[-1:, None]}
    return Mesh.from_arrays(x, {"line": cells}, boundaries=sides)


def rectangle(shape, lengths, origin, kind) -> Mesh:
    """The diagonals alternate, so that no direction is preferred."""
    shape, lengths, origin = _check("rectangle", shape, lengths, origin)
    _check_kind("rectangle", kind, ("triangle", "quad"))
    x, number = _grid(shape, lengths, origin)
    corners = _corners(number).reshape(-1, 4)  # 00, 01, 10, 11 of (x, y)
    cells = corners[:, [0, 2, 3, 1]]
    if kind == "triangle":
        even = np.indices(shape).sum(axis=0).ravel() % 2 == 0
        cells = np.where(
            even[:, None, None],
            corners[:, [[0, 2, 3], [0, 3, 1]]],
            corners[:, [[0, 2, 1], [2, 3, 1]]],
        ).reshape(-1, 3)
    names = (("left", "right"), ("bottom", "top"))
    sides = _sides(kind, cells, x, names)
    return Mesh.from_arrays(x, {kind: cells}, boundaries=sides)


def box(shape, lengths, origin, kind) -> Mesh:
    """Each cube is cut into the six tetrahedra around its diagonal (Kuhn 1960,
    doi:10.1147/rd.45.0518), or kept."""
    shape, lengths, origin = _check("box", shape, lengths, origin)
    _check_kind("box", kind, ("tetra", "hexahedron"))
    x, number = _grid(shape, lengths, origin)
    corners = _corners(number).reshape(-1, 8)  # 000, 001, 010, … of (x, y, z)
    cells = corners[:, [0, 4, 6, 2, 1, 5, 7, 3]]
    if kind == "tetra":
        paths = [
            np.cumsum([0, *(4 >> axis for axis in order)])
            for order in itertools.permutations(range(3))
        ]
        cells = corners[:, paths].reshape(-1, 4)
    names = (("left", "right"), ("front", "back"), ("bottom", "top"))
    sides = _sides(kind, cells, x, names)
    return Mesh.from_arrays(x, {kind: cells}, boundaries=sides)


def disk(n, radius, centre) -> Mesh:
    (n,), (radius, *_), centre = _check("disk", (n,), (radius, radius), centre)
    ring = np.repeat(np.arange(1, n + 1), 6 * np.arange(1, n + 1))
    step = np.concatenate([np.arange(6 * k) for k in range(1, n + 1)])
    angle = 2 * np.pi * step / (6 * ring)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (ring / n)[:, None]
    x = np.concatenate([np.zeros((1, 2)), circle]) * radius + np.asarray(centre)
    cells = []
    for k in range(1, n + 1):  # ring k has 6 k nodes, its first is 1 + 3 k (k - 1)
        i, j = np.meshgrid(np.arange(6), np.arange(k), indexing="ij")
        outer = lambda m, k=k: 1 + 3 * k * (k - 1) + m % (6 * k)
        inner = lambda m, k=k: (
            1 + 3 * (k - 1) * (k - 2) + m % (6 * (k - 1)) if k > 1 else 0 * m
        )
        o, p = (k * i + j).ravel(), ((k - 1) * i + j).ravel()
        cells.append(np.stack([inner(p), outer(o), outer(o + 1)], axis=1))
        between = (j < k - 1).ravel()
        o, p = o[between], p[between]
        cells.append(np.stack([inner(p), outer(o + 1), inner(p + 1)], axis=1))
    mesh = Mesh.from_arrays(x, {"triangle": np.concatenate(cells)})
    return Mesh.from_arrays(x, mesh.cells, boundaries={"boundary": mesh.exterior})


def _grid(shape, lengths, origin):
    """Points `(n, dim)`, last axis fastest, and their numbers on the grid."""
    axes = [
        o + length * np.arange(n + 1) / n
        for n, length, o in zip(shape, lengths, origin, strict=True)
    ]
    x = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)
    return x, np.arange(len(x)).reshape([n + 1 for n in shape])


def _corners(number):
    """The corners of each box of the grid, the last axis fastest."""
    dim = number.ndim
    ends = (slice(None, -1), slice(1, None))
    picks = itertools.product(ends, repeat=dim)
    return np.stack([number[pick] for pick in picks], axis=-1)


def _sides(kind, cells, x, names):
    facets = all_facets({kind: cells})
    on = lambda axis, value: (x[:, axis] == value)[facets].all(axis=1)
    return {
        name: facets[on(axis, end(x[:, axis]))]
        for axis, pair in enumerate(names)
        for name, end in zip(pair, (np.min, np.max), strict=True)
    }


def _check_kind(name: str, kind, known) -> None:
    if kind not in known:
        raise ValueError(
            f"`Mesh.{name}(cells=...)` must be one of {', '.join(map(repr, known))}.\n"
            f"Got {kind!r}.\nLeave it out for {known[0]!r}."
        )


def _check(name, shape, lengths, origin):
    for n in shape:
        if not isinstance(n, (int, np.integer)) or n < 1:
            raise ValueError(
                f"`Mesh.{name}` must get positive whole numbers of cells.\nGot {n!r}.\n"
                "Pass e.g. 10."
            )
    lengths, origin = np.asarray(lengths, float), np.asarray(origin, float)
    dim = 2 if name == "disk" else len(shape)
    if lengths.shape != (dim,) or not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError(
            f"`Mesh.{name}` must get {dim} positive lengths.\nGot {lengths.tolist()}.\n"
            "Pass one for each direction."
        )
    if origin.shape != (dim,) or not np.isfinite(origin).all():
        raise ValueError(
            f"`Mesh.{name}` must get an origin of {dim} finite numbers.\n"
            f"Got {origin.tolist()}.\nPass one for each direction."
        )
    return tuple(int(n) for n in shape), tuple(lengths), tuple(origin)
