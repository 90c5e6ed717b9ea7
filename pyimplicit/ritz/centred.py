r"""Sobol's points that gather where functions that vanish on the faces of a box are large.

The square of Π tᵢ(1 - tᵢ) varies by a factor that grows exponentially with the dimension:
uniform points in (0, 1)^10 are worth a thirty-sixth of their number. Here each coordinate
has the density 1 - a + 6a t(1 - t), and the weights are its inverse.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .domains import Box, Nodes, Rule
from .quadrature import AbstractQuadrature, Sobol, sobol


class Centred(AbstractQuadrature):
    """`n` points in a `Box`, for exact boundary values in many dimensions.

    `strength`: a in [0, 1); 0 is `Sobol`. `fixed`, `seed`: as there. On the boundary the
    points are those of `Sobol(n // 4)`.
    """

    n: int = eqx.field(static=True, default=2**14)
    strength: float = eqx.field(static=True, default=0.9)
    fixed: bool = eqx.field(static=True, default=False)
    seed: int = eqx.field(static=True, default=0)

    def __check_init__(self):
        Sobol(self.n)  # it knows what is wrong with a number of points
        if not 0 <= self.strength < 1:
            raise ValueError(
                "`Centred(strength=...)` must lie in [0, 1).\n"
                f"Got {self.strength!r}.\nTake 0.9."
            )

    def rule(self, domain, key):
        if not isinstance(domain, Box):
            raise TypeError(
                f"`Centred` needs a `Box`.\nGot {type(domain).__name__}.\n"
                "Take ritz.Sobol(n)."
            )
        keys = jax.random.split(key)
        y = jnp.asarray(sobol(self.n, domain.dim, self.seed), jnp.result_type(float))
        if not self.fixed:
            y = (y + jax.random.uniform(keys[0], (domain.dim,))) % 1.0
        t, density = gathered(y, self.strength)
        uniform = domain.interior(t)
        inside = Nodes(uniform.x, uniform.w / jnp.prod(density, axis=1))
        around = Sobol(max(self.n // 4, 1), fixed=self.fixed, seed=self.seed)
        return Rule(inside, around.rule(domain, keys[1]).boundary)


def gathered(y: jax.Array, strength: float) -> tuple[jax.Array, jax.Array]:
    """t with the distribution function F(t) = (1 - a) t + a (3t² - 2t³) = y, and F'(t).

    F is increasing; bisection to the spacing of numbers is fast enough, and exact.
    """
    a = strength
    F = lambda t: t * (1 - a + a * t * (3 - 2 * t))

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        below = F(middle) < y
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    bits = int(np.finfo(y.dtype).nmant) + 1
    low, high = jax.lax.fori_loop(0, bits, halve, (jnp.zeros_like(y), jnp.ones_like(y)))
    t = (low + high) / 2
    return t, 1 - a + 6 * a * t * (1 - t)
