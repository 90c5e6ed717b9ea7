"""The smoothness prior of a field on a mesh."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import fem
from ..linear import SparsePattern, sparse_solve
from .prior import AbstractPrior


class H1Prior(AbstractPrior):
    r"""Smooth fields: R = γ K + δ M on P1 nodes.

    The penalty is 1/2 ∫ γ |∇(m - m̂)|² + δ (m - m̂)² dx, whatever the mesh: K and M are
    the stiffness and mass matrices. sqrt(γ/δ) is the length over which the field keeps
    its value. [length of the mesh]

    **Arguments:**

    - `V`: a P1 `FunctionSpace` with `n` nodes.
    - `gamma`: weight of the gradient, ≥ 0. [length²⁻ᵈ / m²]
    - `delta`: weight of the difference from the reference, > 0. [length⁻ᵈ / m²]
    - `reference`: m̂, a number or an array `(n,)`.

    **Derivative:** `value` in `m` is quadratic, exact to any order.

    ??? cite "Reference"
        Lindgren, Rue, Lindström, *An explicit link between Gaussian fields and
        Gaussian Markov random fields*, J. R. Stat. Soc. B 73 (2011).
        doi:10.1111/j.1467-9868.2011.00777.x
    """

    pattern: SparsePattern
    values: jax.Array
    reference: jax.Array

    def __init__(self, V, gamma: float = 1.0, delta: float = 1.0, reference: Any = 0.0):
        if not (0 <= gamma < np.inf and 0 < delta < np.inf):
            raise ValueError(
                "`H1Prior(gamma, delta)` must have gamma >= 0 and delta > 0, finite.\n"
                f"Got gamma = {gamma}, delta = {delta}.\n"
                "Without delta the prior says nothing of the mean; for pure smoothing "
                "take delta = gamma / L**2 with L larger than the mesh."
            )
        if V.components != 1:
            raise ValueError(
                "`H1Prior(V)` must get a space of scalar functions.\n"
                f"Got {V.components} components.\nUse one prior for each component."
            )
        ones = jnp.ones(V.mesh.n_cells)
        K, M = fem.diffusion_values(V, ones), fem.mass_values(V)
        self.pattern = V.pattern("spd")
        self.values = gamma * K + delta * M
        self.reference = jnp.broadcast_to(
            jnp.asarray(reference, self.values.dtype), V.shape
        )

    def value(self, m):
        d = m - self.reference
        return 0.5 * jnp.vdot(d, self.apply(d))

    def gradient(self, m):
        return self.apply(m - self.reference)

    def apply(self, v):
        return self.pattern.matvec(self.values, v)

    def solve(self, v):
        return sparse_solve(self.pattern, self.values, v)
