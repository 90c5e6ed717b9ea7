"""The prior of fields that jump: smoothed total variation."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .prior import AbstractPrior
from .prior_h1 import SmoothField, _check


class TVPrior(AbstractPrior):
    r"""Fields that are flat but for jumps: total variation, smoothed by ε, on P1 nodes.

    The penalty is ∫ γ (sqrt(|∇(m - m̂)|² + ε²) - ε) + δ/2 (m - m̂)² dx. A jump costs its
    height times its length, however steep it is; a gradient well below ε counts as in an
    `H1Prior` with γ/ε.

    For Gauss-Newton and as inner product it stands, at m, for the quadratic prior with

        R(m) = γ K(1/sqrt(|∇(m - m̂)|² + ε²)) + δ M,    ∇ penalty = R(m) (m - m̂),

    the *lagged diffusivity*; its step never raises penalty and linearised misfit together.
    "newton-cg" uses the true Hessian of the penalty.

    **Arguments:**

    - `V`: a P1 `FunctionSpace` with `n` nodes.
    - `gamma`: weight of the variation, > 0. [length¹⁻ᵈ / m]
    - `epsilon`: the gradient below which the field counts as flat, > 0; the smaller, the
      sharper the edges and the slower the fit. [m / length]
    - `delta`: weight of the difference from the reference, > 0. [length⁻ᵈ / m²]
    - `reference`: m̂, a number or an array `(n,)`.

    **Derivative:** exact, any order.

    ??? cite "Reference"
        Vogel, Oman, *Iterative methods for total variation denoising*, SIAM J. Sci.
        Comput. 17 (1996). doi:10.1137/0917016
    """

    V: Any = eqx.field(static=True)
    gamma: float
    epsilon: float
    delta: float
    reference: jax.Array

    def __init__(
        self,
        V,
        gamma: float = 1.0,
        epsilon: float = 1e-2,
        delta: float = 1e-6,
        reference: Any = 0.0,
    ):
        _check("TVPrior", V, gamma, delta)
        if not (gamma > 0 and 0 < epsilon < np.inf):
            raise ValueError(
                "`TVPrior(gamma, epsilon)` must be positive and finite.\n"
                f"Got gamma = {gamma}, epsilon = {epsilon}.\n"
                "Take for epsilon a tenth of the slopes that are not edges."
            )
        self.V, self.gamma, self.epsilon, self.delta = V, gamma, epsilon, delta
        dtype = V.array("stiffness").dtype
        self.reference = jnp.broadcast_to(jnp.asarray(reference, dtype), V.shape)

    def value(self, m):
        d = m - self.reference
        local = d[self.V.array("cell_dofs")]
        square = jnp.einsum("ci,cij,cj->", local, self.V.array("mass"), local)
        variation = self.V.mesh.volumes @ (self._length(d) - self.epsilon)
        return self.gamma * variation + 0.5 * self.delta * square

    def gradient(self, m):
        return self.at(m).gradient(m)

    def at(self, m) -> SmoothField:
        weight = self.gamma / self._length(m - self.reference)
        return SmoothField(self.V, weight, self.delta, self.reference)

    def apply(self, v):
        """R(m̂) v."""
        return self.at(self.reference).apply(v)

    def solve(self, v):
        """R(m̂)⁻¹ v."""
        return self.at(self.reference).solve(v)

    def _length(self, d):
        """sqrt(|∇d|² + ε²) in each cell, `(n_cells,)`."""
        local = d[self.V.array("cell_dofs")]
        # ∫_c |∇d|²: gradients are constant in a cell. Differences keep it from rounding.
        local = local - local[:, :1]
        square = jnp.einsum("ci,cij,cj->c", local, self.V.array("stiffness"), local)
        return jnp.sqrt(square / self.V.mesh.volumes + self.epsilon**2)
