"""Rules: which points an energy is integrated with, and when they are drawn again.

A rule for training may be random and change in every step. The energy that is reported is
always that of the fixed fine rule of `fine_rule`, never of the points trained on.
"""

import abc
import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .domains import AbstractDomain, Rule


class AbstractQuadrature(eqx.Module):
    """Which nodes each step has."""

    @abc.abstractmethod
    def rule(self, domain: AbstractDomain, key: jax.Array) -> Rule:
        """The nodes; `key` is not used by fixed rules."""

    def at(self, functional, theta: jax.Array, key: jax.Array) -> Rule:
        """The nodes of a step from `theta`, which rules that adapt look at."""
        del theta
        return self.rule(functional.domain, key)


class MonteCarlo(AbstractQuadrature):
    """`n` random points inside, `n_boundary` on the boundary (`n // 4` if not given).

    `fixed`: drawn once, from `seed`; else again in each step. The error of an integral is
    of the order n^(-1/2); steps on fixed points fit what lies between them at will, so
    redraw unless the parameters are few.
    """

    n: int = eqx.field(static=True, default=2048)
    n_boundary: int | None = eqx.field(static=True, default=None)
    fixed: bool = eqx.field(static=True, default=False)
    seed: int = eqx.field(static=True, default=0)

    def __check_init__(self):
        check_counts("MonteCarlo", self.n, self.n_boundary)

    def rule(self, domain, key):
        key = jax.random.key(self.seed) if self.fixed else key
        inside, around = jax.random.split(key)
        t = jax.random.uniform(inside, (self.n, domain.cube_dim))
        n = self.n // 4 if self.n_boundary is None else self.n_boundary
        s = jax.random.uniform(around, (max(n, 1), domain.boundary_cube_dim))
        return Rule(domain.interior(t), domain.boundary(s))


class Sobol(AbstractQuadrature):
    """Sobol's points, quasi-Monte-Carlo: `n` inside (a power of two is best).

    Shifted modulo one by a random vector in each step (Cranley, Patterson 1976,
    doi:10.1137/0713071), so that the mean over steps has no bias; `fixed`: not shifted.
    For smooth integrands the error is near to n^(-1).
    """

    n: int = eqx.field(static=True, default=2048)
    n_boundary: int | None = eqx.field(static=True, default=None)
    fixed: bool = eqx.field(static=True, default=False)
    seed: int = eqx.field(static=True, default=0)

    def __check_init__(self):
        check_counts("Sobol", self.n, self.n_boundary)

    def rule(self, domain, key):
        keys = jax.random.split(key)
        n = max(self.n // 4, 1) if self.n_boundary is None else self.n_boundary
        t = self._points(keys[0], self.n, domain.cube_dim)
        s = self._points(keys[1], n, domain.boundary_cube_dim)
        return Rule(domain.interior(t), domain.boundary(s))

    def _points(self, key, n: int, k: int):
        t = jnp.asarray(sobol(n, k, self.seed), jnp.result_type(float))
        if self.fixed:
            return t
        return (t + jax.random.uniform(key, (k,))) % 1.0


class Gauss(AbstractQuadrature):
    """Products of Gauss rules: `points` in each of `cells` intervals for each coordinate.
    Up to three dimensions. Never drawn again.

    For a `Box` these are its own, for a `Ball` the radius and angles. Other domains are
    made of `parts` triangles or tetrahedra (eight for a `Slit`, six for an `LShape`, the
    cells of a mesh), and each has a rule: `parts` (points cells)^dim nodes. `boundary`:
    the intervals on each piece of the boundary, if not `cells`; what holds boundary values
    by a penalty may need more of them than the interior.
    """

    points: int = eqx.field(static=True, default=4)
    cells: int = eqx.field(static=True, default=8)
    boundary: int | None = eqx.field(static=True, default=None)

    def rule(self, domain, key=None):
        with jax.ensure_compile_time_eval():
            rule = domain.gauss(self.points, self.cells)
            if self.boundary in (None, self.cells):
                return rule
            around = domain.gauss(self.points, self.boundary).boundary
            return rule._replace(boundary=around)


def fine_rule(domain: AbstractDomain, n: int | None = None) -> Rule:
    """The fixed rule of reports: Gauss up to three dimensions, else Sobol's points.

    `n`: about how many points inside; 2¹⁴ if not given.
    """
    n = 2**14 if n is None else n
    if domain.dim <= 3:
        per_axis = max(round((n / domain.parts) ** (1 / domain.dim)), 6)
        return Gauss(6, -(-per_axis // 6)).rule(domain)
    return Sobol(n, max(n // 4, 1), fixed=True, seed=1).rule(domain, jax.random.key(0))


def usual(domain: AbstractDomain, fixed: bool = False) -> AbstractQuadrature:
    """What is trained on if nothing is said: `Gauss` with about 32 nodes for each
    coordinate up to two dimensions, else 4096 of Sobol's points."""
    if domain.dim > 2:
        return Sobol(4096, fixed=fixed)
    return Gauss(4, max(round(8 / domain.parts ** (1 / domain.dim)), 1))


def other(quadrature: AbstractQuadrature) -> AbstractQuadrature:
    """Nodes of as many points or so, none of which are those of `quadrature`."""
    if isinstance(quadrature, Gauss):
        return dataclasses.replace(quadrature, points=quadrature.points + 1)
    if getattr(quadrature, "fixed", False):
        return dataclasses.replace(quadrature, fixed=False)
    return quadrature


def pair(quadrature: AbstractQuadrature, domain: AbstractDomain) -> tuple[Rule, Rule]:
    """A rule that does not change any more, and another of about as many nodes."""
    # Of no seed: a rule that was fixed with it would judge itself.
    key = jax.random.split(jax.random.key(1))[0]
    return quadrature.rule(domain, jax.random.key(0)), other(quadrature).rule(domain, key)


def sobol(n: int, k: int, seed: int) -> np.ndarray:
    """Scrambled Sobol points `(n, k)`, strictly inside the cube."""
    from scipy.stats import qmc

    if k > qmc.Sobol.MAXDIM:
        raise ValueError(
            f"`Sobol` has points of at most {qmc.Sobol.MAXDIM} dimensions.\nGot {k}.\n"
            "Take ritz.MonteCarlo(n)."
        )
    sampler = qmc.Sobol(k, scramble=True, rng=np.random.default_rng(seed))
    t = sampler.random_base2(max(int(np.ceil(np.log2(n))), 0))[:n]
    return np.clip(t, 1e-12, 1 - 1e-12)


def check_counts(name: str, n, n_boundary) -> None:
    for what, count in (("n", n), ("n_boundary", n_boundary)):
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(
                f"`{name}({what}=...)` must be a positive whole number.\nGot {count!r}.\n"
                "It is the number of points."
            )
