"""Domains: maps from the unit cube, Gauss rules, and a function that vanishes on ∂Ω.

A domain knows three things. `interior(t)` and `boundary(t)` map points t of a unit cube,
`(n, k)`, into it, so that any rule on cubes (random, Sobol's) is one on the domain.
`gauss(points, cells)` is a product rule. `distance(x)` is smooth inside, positive, zero
on the boundary and of slope one or so there, for exact boundary values.
"""

import abc
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..fem.quadrature import cube


class Nodes(NamedTuple):
    """∫ f ≈ Σ w f(x): x `(n, dim)`, w `(n,)`, and on a boundary outward normals
    `(n, dim)`."""

    x: Any
    w: Any
    normal: Any = None


class Rule(NamedTuple):
    """Where energies are integrated: inside, and on the boundary."""

    interior: Nodes
    boundary: Nodes


class AbstractDomain(abc.ABC):
    """What all domains share. `dim`: coordinates that are differentiated. `volume` and
    `area`: of Ω and ∂Ω. `cube_dim`, `boundary_cube_dim`: k of the cubes."""

    dim: int
    volume: float
    area: float
    cube_dim: int
    boundary_cube_dim: int

    @abc.abstractmethod
    def interior(self, t: jax.Array) -> Nodes:
        """Nodes of equal density in the cube, `(n, cube_dim)`, as nodes in Ω."""

    @abc.abstractmethod
    def boundary(self, t: jax.Array) -> Nodes:
        """Likewise on ∂Ω, from `(n, boundary_cube_dim)`."""

    @abc.abstractmethod
    def gauss(self, points: int, cells: int) -> Rule:
        """A product of Gauss rules with `points` in each of `cells` intervals for each
        coordinate."""

    @abc.abstractmethod
    def distance(self, x: jax.Array) -> jax.Array:
        """At one point `(dim,)`: positive inside, zero on the boundary."""

    @abc.abstractmethod
    def contains(self, x: jax.Array) -> jax.Array:
        """Whether a point `(dim,)` lies in Ω."""

    def sample(self, key: jax.Array, n: int) -> jax.Array:
        """`n` random points of Ω, uniform, `(n, dim)`."""
        return self.interior(jax.random.uniform(key, (n, self.cube_dim))).x

    def sample_boundary(self, key: jax.Array, n: int) -> Nodes:
        """`n` random points of ∂Ω with normals, uniform."""
        return self.boundary(jax.random.uniform(key, (n, self.boundary_cube_dim)))


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
        line = _composite(points, cells)
        x, w = _product([line] * self.dim)
        interior = Nodes(jnp.asarray(self.lower + x * self.lengths), w * self.volume)
        y, v = _product([line] * (self.dim - 1))
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
        r, w = _composite(points, cells)
        around = 2 * points * cells + 1
        phi = 2 * np.pi * (np.arange(around) + 0.5) / around
        circle = np.stack([np.cos(phi), np.sin(phi)], axis=1)
        if self.dim == 1:
            sphere, v = np.array([[-1.0], [1.0]]), np.ones(2)
        elif self.dim == 2:
            sphere, v = circle, np.full(around, 2 * np.pi / around)
        else:
            z, a = _composite(points, cells)
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


def as_rule(interior: Nodes, boundary: Nodes) -> Rule:
    """The rule in the working precision."""
    floating = jnp.result_type(float)
    cast = lambda nodes: jax.tree.map(lambda a: jnp.asarray(a, floating), nodes)
    return Rule(cast(interior), cast(boundary))


def check_gauss(points, cells, dim: int) -> None:
    """Refuses numbers that make no rule, and dimensions above three."""
    for name, n in (("points", points), ("cells", cells)):
        if not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(
                f"`gauss({name}=...)` must be a positive whole number.\nGot {n!r}.\n"
                "Pass e.g. points=4, cells=8."
            )
    if dim > 3:
        raise ValueError(
            "A product of Gauss rules needs a domain of at most 3 dimensions.\n"
            f"Got {dim} dimensions.\nTake ritz.Sobol(n) or ritz.MonteCarlo(n)."
        )


def _composite(points: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre on (0, 1), in `cells` equal intervals."""
    t, w = cube(1, 2 * points - 1)
    x = (np.arange(cells)[:, None] + t[:, 0]) / cells
    return x.ravel(), np.tile(w, cells) / cells


def _product(lines) -> tuple[np.ndarray, np.ndarray]:
    if not lines:
        return np.zeros((1, 0)), np.ones(1)
    x = np.stack(np.meshgrid(*(x for x, _ in lines), indexing="ij"), -1)
    w = np.stack(np.meshgrid(*(w for _, w in lines), indexing="ij"), -1).prod(-1)
    return x.reshape(-1, len(lines)), w.ravel()
