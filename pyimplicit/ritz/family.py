"""Parametric families: one network for all p of a box, u(x, p)."""

import jax
import jax.numpy as jnp

from .domains import AbstractDomain, Box, Nodes, Rule
from .quadrature import sobol


MANY = 64  # points in the box of parameters, where products of rules would be too many


class Family(AbstractDomain):
    """Points (x, p) of a domain and a box of parameters: `Family(domain, lower, upper)`.

    Energies are means over the box, so that the least of them is u(·, p) for (almost)
    all p. Models and coefficients get the `dim + len(lower)` numbers (x, p) as
    one vector; derivatives are with respect to x alone. E.g.

        family = ritz.Family(ritz.Box([0], [1]), [0.5], [2.0])
        energy = ritz.poisson(1.0, kappa=lambda xp: xp[1])
    """

    def __init__(self, domain: AbstractDomain, lower, upper):
        if not isinstance(domain, AbstractDomain) or isinstance(domain, Family):
            raise TypeError(
                "`Family(domain, lower, upper)` must be about a domain.\n"
                f"Got {domain!r}.\nPass e.g. ritz.Box([0], [1])."
            )
        self.of, self.parameters = domain, Box(lower, upper)
        self.dim, self.volume, self.area = domain.dim, domain.volume, domain.area
        self.parts = domain.parts
        more = self.parameters.dim
        self.cube_dim = domain.cube_dim + more
        self.boundary_cube_dim = domain.boundary_cube_dim + more

    def interior(self, t):
        return self._joined(self.of.interior(t[:, : self.of.cube_dim]), t)

    def boundary(self, t):
        return self._joined(self.of.boundary(t[:, : self.of.boundary_cube_dim]), t)

    def _joined(self, nodes: Nodes, t):
        p = self.parameters.interior(t[:, -self.parameters.dim :]).x
        return Nodes(jnp.concatenate([nodes.x, p], axis=1), nodes.w, nodes.normal)

    def gauss(self, points, cells):
        """As that of the domain, times `points` in each parameter, or times `MANY` of
        Sobol's points where there are more than two."""
        if self.parameters.dim <= 2:
            p, v, _ = self.parameters.gauss(points, 1).interior
        else:  # others for other `points`, so that rules can judge each other
            t = sobol(MANY, self.parameters.dim, points)
            p, v, _ = self.parameters.interior(jnp.asarray(t, jnp.result_type(float)))
        v = v / self.parameters.volume
        inside, around = self.of.gauss(points, cells)
        return Rule(_times(inside, p, v), _times(around, p, v))

    def distance(self, x):
        return self.of.distance(x[: self.dim])

    def contains(self, x):
        return self.of.contains(x[: self.dim]) & self.parameters.contains(x[self.dim :])

    def sample(self, key: jax.Array, n: int) -> jax.Array:
        return self.interior(jax.random.uniform(key, (n, self.cube_dim))).x


def _times(nodes: Nodes, p, v) -> Nodes:
    """All pairs."""
    n, m = len(nodes.w), len(v)
    x = jnp.concatenate([jnp.repeat(nodes.x, m, 0), jnp.tile(p, (n, 1))], axis=1)
    normal = None if nodes.normal is None else jnp.repeat(nodes.normal, m, 0)
    return Nodes(x, (nodes.w[:, None] * v).ravel(), normal)


def at_parameters(field, p):
    """x -> u(x, p): one member of a family."""
    p = jnp.atleast_1d(jnp.asarray(p))
    return lambda x: field(jnp.concatenate([x, p.astype(x.dtype)]))
