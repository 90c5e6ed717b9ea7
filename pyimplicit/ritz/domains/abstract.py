"""Domains: maps from the unit cube, Gauss rules, and a function that vanishes on ∂Ω.

A domain knows three things. `interior(t)` and `boundary(t)` map points t of a unit cube,
`(n, k)`, into it, so that any rule on cubes (random, Sobol's) is one on the domain.
`gauss(points, cells)` is a product rule. `distance(x)` is smooth inside, positive, zero
on the boundary and of slope one or so there, for exact boundary values.
"""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...fem.quadrature import cube


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
    `area`: of Ω and ∂Ω. `cube_dim`, `boundary_cube_dim`: k of the cubes. `parts`: how many
    product rules `gauss` is made of."""

    dim: int
    volume: float
    area: float
    cube_dim: int
    boundary_cube_dim: int
    parts: int = 1

    @abc.abstractmethod
    def interior(self, t: jax.Array) -> Nodes:
        """Nodes of equal density in the cube, `(n, cube_dim)`, as nodes in Ω."""

    @abc.abstractmethod
    def boundary(self, t: jax.Array) -> Nodes:
        """Likewise on ∂Ω, from `(n, boundary_cube_dim)`."""

    @abc.abstractmethod
    def gauss(self, points: int, cells: int) -> Rule:
        """A product of Gauss rules with `points` in each of `cells` intervals for each
        coordinate; on domains of pieces one for each piece."""

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


def composite(points: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre on (0, 1), in `cells` equal intervals."""
    t, w = cube(1, 2 * points - 1)
    x = (np.arange(cells)[:, None] + t[:, 0]) / cells
    return x.ravel(), np.tile(w, cells) / cells


def product(lines) -> tuple[np.ndarray, np.ndarray]:
    if not lines:
        return np.zeros((1, 0)), np.ones(1)
    x = np.stack(np.meshgrid(*(x for x, _ in lines), indexing="ij"), -1)
    w = np.stack(np.meshgrid(*(w for _, w in lines), indexing="ij"), -1).prod(-1)
    return x.reshape(-1, len(lines)), w.ravel()
