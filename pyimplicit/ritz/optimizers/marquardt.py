r"""Levenberg–Marquardt in function space: the natural gradient with a trust in its model.

About θ the energy is modelled by m(s) = I + gᵀs + ½ sᵀGs: for quadratic energies that of
the linearised function u_θ + ∂u/∂θ s, without error but for the curvature of the network.
Damping grows where the model promised too much and shrinks where it was right.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from ...linear import Dense, MatrixFree
from .abstract import AbstractOptimizer, info
from .natural import check_gram, damped, damped_by_products, in_double, mean_diagonal


class Trust(NamedTuple):
    """`damping`: as a part of the mean diagonal of G. `growth`: by what the next failure
    multiplies it."""

    damping: jax.Array
    growth: jax.Array


class LevenbergMarquardt(AbstractOptimizer):
    """Gauss–Newton steps in function space, one linear system and one energy each.

    **Arguments:**

    - `gram`: `pi.Dense()`, or `pi.MatrixFree()` with conjugate gradients, see
      `NaturalGradient`.
    - `start`, `least`: the damping at first, and the smallest, as parts of the mean
      diagonal of G.
    - `max_products`, `rtol`: of the conjugate gradients.

    A step that does not lower the energy by a thousandth of what was promised is not taken
    (length 0). Cheaper than `NaturalGradient`, which tries several dampings and lengths
    each time; takes more steps.

    *Needs* double precision and a fixed rule with several times as many nodes as
    parameters: else steps are refused as soon as what lowers the energy on the nodes raises
    it elsewhere, and `solve` reports a stall. Rough models, e.g. `ReLU3`, need some
    thousand steps of `Adam` first: from a rough start long steps make peaks that no rule
    sees.

    ??? cite "Reference"
        Marquardt, *An algorithm for least-squares estimation of nonlinear parameters*
        (1963). doi:10.1137/0111030. The rule for the damping: Nielsen, *Damping parameter
        in Marquardt's method* (1999), IMM-REP-1999-05, Eq. (2.5)
    """

    gram: Any = eqx.field(static=True, default=Dense())
    start: float = eqx.field(static=True, default=1e-3)
    least: float = eqx.field(static=True, default=1e-14)
    max_products: int = eqx.field(static=True, default=200)
    rtol: float = eqx.field(static=True, default=1e-6)

    def __check_init__(self):
        check_gram(self.gram, "LevenbergMarquardt")
        if not 0 < self.least <= self.start:
            raise ValueError(
                "`LevenbergMarquardt(start, least)` must have 0 < least <= start.\n"
                f"Got {self.start!r} and {self.least!r}.\nTake e.g. 1e-3 and 1e-14."
            )

    def init(self, theta):
        in_double(theta, "LevenbergMarquardt")
        return Trust(jnp.asarray(self.start), jnp.asarray(2.0))

    def step(self, problem, theta, state):
        energy, g = jax.value_and_grad(problem.value)(theta)
        if isinstance(self.gram, MatrixFree):
            product = problem.product(theta)
            delta = state.damping * mean_diagonal(product, theta)
            s = damped_by_products(product, g, delta, self.max_products, self.rtol)
        else:
            G = problem.gram(theta)
            product = lambda v: G @ v
            s = damped(G, g, state.damping * jnp.mean(jnp.abs(jnp.diagonal(G))))
        promised = -(g @ s) - 0.5 * s @ product(s)
        gained = -problem.rise(theta)(theta + s)
        # Where both are round-off of the energy the step is as good as its model.
        noise = 10 * jnp.finfo(theta.dtype).eps * jnp.abs(energy)
        ratio = (gained + noise) / (promised + noise)
        taken = (ratio > 1e-3) & (promised > 0) & jnp.isfinite(gained)
        shrink = jnp.maximum(1 / 3, 1 - (2 * jnp.minimum(ratio, 2.0) - 1) ** 3)
        damping = state.damping * jnp.where(taken, shrink, state.growth)
        growth = jnp.where(taken, 2.0, 2 * state.growth)
        damping = jnp.clip(damping, self.least, 1e6)
        s = jnp.where(taken, s, 0.0)
        length = jnp.where(taken, 1.0, 0.0)
        # That of a damped step is too small: known only where the damping is slight.
        decrement = jnp.where(taken & (state.damping < 1e-6), -0.5 * (g @ s), jnp.nan)
        return theta + s, Trust(damping, growth), info(energy, g, decrement, length)
