"""Balls of any dimension."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from .abstract import AbstractDomain, Nodes, as_rule, check_gauss, composite


class Ball(AbstractDomain):
    """A ball of any dimension: `Ball(2)` is the unit disk.

    `distance`: (R² - |x|²) / 2R, of slope one on the boundary. Gauss rules (dimensions 1
    to 3) are products in polar coordinates, exact for polynomials.
    """

    def __init__(self, dim: int, radius: float = 1.0, *, centre=None):
        if not isinstance(dim, int) or dim < 1 or not 0 < radius < math.inf:
            raise ValueError(
                "`Ball(dim, radius)` must have a dimension and a radius above zero.\n"
                f"Got {dim!r} and {radius!r}.\nPass e.g. Ball(2, 1.0)."
            )
        self.dim, self.radius = dim, float(radius)
        self.centre = np.zeros(dim) if centre is None else np.asarray(centre, np.float64)
        if self.centre.shape != (dim,):
            raise ValueError(
                f"`Ball(centre=...)` must have shape ({dim},).\n"
                f"Got {self.centre.shape}.\nLeave it out for the origin."
            )
        self.cube_dim, self.boundary_cube_dim = dim + 1, dim  # see `_directions`
        self.volume = math.pi ** (dim / 2) / math.gamma(dim / 2 + 1) * radius**dim
        self.area = dim * self.volume / radius

    def _directions(self, t):
        """Uniform on the sphere, from a cube by normal quantiles."""
        tiny = jnp.finfo(t.dtype).eps
        z = jax.scipy.special.ndtri(jnp.clip(t, tiny, 1 - tiny))
        away = jnp.linalg.norm(z, axis=1, keepdims=True)
        e1 = jnp.eye(1, self.dim, dtype=t.dtype)
        return jnp.where(away > 0, z / jnp.where(away > 0, away, 1.0), e1)

    def interior(self, t):
        r = self.radius * t[:, -1:] ** (1 / self.dim)
        x = jnp.asarray(self.centre, t.dtype) + r * self._directions(t[:, :-1])
        return Nodes(x, jnp.full(len(t), self.volume / len(t), t.dtype))

    def boundary(self, t):
        normal = self._directions(t)
        x = jnp.asarray(self.centre, t.dtype) + self.radius * normal
        return Nodes(x, jnp.full(len(t), self.area / len(t), t.dtype), normal)

    def gauss(self, points, cells=1):
        check_gauss(points, cells, self.dim)
        r, w = composite(points, cells)
        around = 2 * points * cells + 1
        phi = 2 * np.pi * (np.arange(around) + 0.5) / around
        circle = np.stack([np.cos(phi), np.sin(phi)], axis=1)
        if self.dim == 1:
            sphere, v = np.array([[-1.0], [1.0]]), np.ones(2)
        elif self.dim == 2:
            sphere, v = circle, np.full(around, 2 * np.pi / around)
        else:
            z, a = composite(points, cells)
            z, a = 2 * z - 1, 2 * a
            s = np.sqrt(1 - z**2)
            sphere = np.concatenate(
                [s[:, None, None] * circle, np.broadcast_to(z[:, None, None],
                 (len(z), around, 1))], axis=2,
            ).reshape(-1, 3)  # fmt: skip
            v = np.repeat(a, around) * 2 * np.pi / around
        d, R = self.dim, self.radius
        x = (r[:, None, None] * sphere).reshape(-1, d)
        weights = np.outer(w * r ** (d - 1), v).ravel() * R**d
        interior = Nodes(self.centre + R * x, weights)
        return as_rule(interior, Nodes(self.centre + R * sphere, v * R ** (d - 1), sphere))

    def distance(self, x):
        y = x - self.centre.astype(x.dtype)
        return (self.radius**2 - y @ y) / (2 * self.radius)

    def contains(self, x):
        return jnp.sum((x - self.centre) ** 2) < self.radius**2
