"""Boxes of any dimension."""

import jax.numpy as jnp
import numpy as np

from .abstract import AbstractDomain, Nodes, as_rule, check_gauss, composite, product


class Box(AbstractDomain):
    """The box between two corners, of any dimension; `Box([0, 0], [1, 1])`.

    `distance`: Π 4 tᵢ (1 - tᵢ), with tᵢ in (0, 1) across the box; 1 in the middle.
    """

    def __init__(self, lower, upper):
        self.lower = np.atleast_1d(np.asarray(lower, np.float64))
        self.upper = np.atleast_1d(np.asarray(upper, np.float64))
        if self.lower.shape != self.upper.shape or self.lower.ndim != 1:
            raise ValueError(
                "`Box(lower, upper)` must be two corners of the same length.\n"
                f"Got shapes {self.lower.shape} and {self.upper.shape}.\n"
                "Pass e.g. Box([0, 0], [1, 1])."
            )
        self.lengths = self.upper - self.lower
        if not (self.lengths > 0).all() or not np.isfinite(self.lengths).all():
            raise ValueError(
                "`Box(lower, upper)` must have lower < upper in each coordinate.\n"
                f"Got {self.lower.tolist()} and {self.upper.tolist()}.\nSwap them."
            )
        self.dim = self.cube_dim = self.boundary_cube_dim = len(self.lower)
        self.volume = float(np.prod(self.lengths))
        # Of the faces: lower and upper of the first coordinate, of the second, …
        self.faces = np.repeat(self.volume / self.lengths, 2)
        self.area = float(self.faces.sum())

    def interior(self, t):
        x = jnp.asarray(self.lower, t.dtype) + t * jnp.asarray(self.lengths, t.dtype)
        return Nodes(x, jnp.full(len(t), self.volume / len(t), t.dtype))

    def boundary(self, t):
        # The first coordinate of the cube tells the face; what is left of it is not used.
        edges = np.cumsum(self.faces) / self.area
        face = jnp.searchsorted(jnp.asarray(edges[:-1], t.dtype), t[:, 0], side="right")
        axis, side = face // 2, face % 2
        # The other coordinates fill the face, in the order of the axes but its own.
        place = jnp.arange(self.dim) - (jnp.arange(self.dim) > axis[:, None])
        inside = jnp.take_along_axis(t, jnp.minimum(place + 1, self.dim - 1), axis=1)
        across = jnp.arange(self.dim) == axis[:, None]
        inside = jnp.where(across, side[:, None].astype(t.dtype), inside)
        normal = jnp.where(across, 2.0 * side[:, None] - 1.0, 0.0).astype(t.dtype)
        nodes = self.interior(inside)
        return Nodes(nodes.x, jnp.full(len(t), self.area / len(t), t.dtype), normal)

    def gauss(self, points, cells=1):
        check_gauss(points, cells, self.dim)
        line = composite(points, cells)
        x, w = product([line] * self.dim)
        interior = Nodes(jnp.asarray(self.lower + x * self.lengths), w * self.volume)
        y, v = product([line] * (self.dim - 1))
        xs, ws, ns = [], [], []
        for face, measure in enumerate(self.faces):
            axis, side = divmod(face, 2)
            xs.append(self.lower + np.insert(y, axis, side, axis=1) * self.lengths)
            ws.append(v * measure)
            ns.append(
                np.broadcast_to((2 * side - 1) * np.eye(self.dim)[axis], xs[-1].shape)
            )
        boundary = Nodes(*(jnp.asarray(np.concatenate(a)) for a in (xs, ws, ns)))
        return as_rule(interior, boundary)

    def distance(self, x):
        t = (x - self.lower.astype(x.dtype)) / self.lengths.astype(x.dtype)
        return jnp.prod(4 * t * (1 - t))

    def contains(self, x):
        return jnp.all((x > self.lower) & (x < self.upper))
