r"""Rules that lay nodes where they matter, without bias.

Of many candidates, random and uniform, n are kept with chances q_j that follow a density,
by systematic resampling, and candidate j then weighs w_j / (n q_j): the mean over both
draws is the integral, whatever the density.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .domains import Nodes, Rule
from .energies import Energy, as_energy
from .quadrature import AbstractQuadrature, MonteCarlo, check_counts


class Importance(AbstractQuadrature):
    """`n` nodes inside, distributed like `density(x)` > 0, out of `candidates` times as
    many; `n_boundary` uniform ones on the boundary (`n // 4` if not given).

    The variance is that of `candidates n` uniform nodes plus what the choice adds, least
    for a density like |e|, the integrand.

    Source: Rubin, *The calculation of posterior distributions by data augmentation:
    comment* (1987), doi:10.2307/2289460 (sampling, importance resampling).
    """

    density: Callable
    n: int = eqx.field(static=True, default=2048)
    n_boundary: int | None = eqx.field(static=True, default=None)
    candidates: int = eqx.field(static=True, default=8)

    def __check_init__(self):
        check_counts("Importance", self.n, self.n_boundary)
        check_counts("Importance", self.candidates, None)

    def rule(self, domain, key):
        return _rule(self, domain, key, jax.vmap(self.density))


class Adaptive(AbstractQuadrature):
    """`n` nodes where the function that is trained has most to say, anew in each step.

    The density is `uniform` plus (1 - `uniform`) times the indicator over its mean.
    `indicator`: a function of x, u, ∇u, or an `Energy`, whose |density| it then is; the
    energy itself if None. For samples by residual take `ritz.pinn(source)`.
    `candidates`, `n_boundary`: as for `Importance`.

    Source: Wu, Zhu, Tan, Kartha, Lu, *A comprehensive study of non-adaptive and
    residual-based adaptive sampling* (2023), doi:10.1016/j.cma.2022.115671; the weights,
    that keep integrals unbiased, are those of importance sampling.
    """

    indicator: Any = None
    n: int = eqx.field(static=True, default=2048)
    n_boundary: int | None = eqx.field(static=True, default=None)
    candidates: int = eqx.field(static=True, default=4)
    uniform: float = eqx.field(static=True, default=0.2)

    def __check_init__(self):
        check_counts("Adaptive", self.n, self.n_boundary)
        check_counts("Adaptive", self.candidates, None)
        if not 0 < self.uniform <= 1:
            raise ValueError(
                "`Adaptive(uniform=...)` must lie in (0, 1].\n"
                f"Got {self.uniform!r}.\nWith none some parts would have no nodes."
            )

    def rule(self, domain, key):
        """Uniform: no function is known."""
        return MonteCarlo(self.n, self.n_boundary).rule(domain, key)

    def at(self, functional, theta, key):
        own = functional.energy if self.indicator is None else self.indicator
        energy: Energy = as_energy(own)
        field, dim = functional.field(jax.lax.stop_gradient(theta)), functional.domain.dim

        def density(x):
            size = energy.density(x, *energy.jet(field, x, dim))
            return jnp.linalg.norm(jnp.atleast_1d(size))

        def mixed(x):
            size = jax.vmap(density)(x)
            mean = jnp.mean(size)
            relative = jnp.where(mean > 0, size / jnp.where(mean > 0, mean, 1.0), 1.0)
            return self.uniform + (1 - self.uniform) * relative

        return _rule(self, functional.domain, key, mixed)


def _rule(own, domain, key, density: Callable) -> Rule:
    first, second = jax.random.split(key)
    many = MonteCarlo(own.n * own.candidates, own.n_boundary or max(own.n // 4, 1))
    inside, around = many.rule(domain, first)
    return Rule(resample(inside, density(inside.x), own.n, second), around)


def resample(nodes: Nodes, density: jax.Array, n: int, key: jax.Array) -> Nodes:
    """`n` of the nodes, chosen by their density `(m,)`, with weights of no bias."""
    share = density * nodes.w / jnp.sum(density * nodes.w)
    places = (jnp.arange(n) + jax.random.uniform(key)) / n
    ends = jnp.cumsum(share)
    j = jnp.searchsorted(ends / ends[-1], places.astype(ends.dtype)).clip(max=len(ends) - 1)
    return Nodes(nodes.x[j], nodes.w[j] / (n * share[j]))
