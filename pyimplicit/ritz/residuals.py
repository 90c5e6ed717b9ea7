"""Least squares on the same objects, for comparison: PINNs and first-order systems.

Both are energies whose least value is zero, at the solution of -div(κ ∇u) + c u = f, so
that their values are errors; but the norm that they measure is another than the energy's.
"""

from typing import Any

import jax
import jax.numpy as jnp

from . import jets
from .energies import Energy, at


def pinn(source: Any = 0.0, *, kappa: Any = 1.0, reaction: Any = 0.0) -> Energy:
    """∫ ½ (div(κ ∇u) - c u + f)², the residual squared; κ a scalar.

    Second derivatives of the network are needed, forwards. Boundary values count as
    in the energy norm only if they hold exactly.

    Source: Raissi, Perdikaris, Karniadakis, *Physics-informed neural networks* (2019).
    doi:10.1016/j.jcp.2018.10.045
    """

    def density(x, u, grad_u, laplacian):
        dim = grad_u.shape[-1]
        flux = at(kappa, x) * laplacian
        if callable(kappa):
            flux = flux + jax.grad(kappa)(x)[:dim] @ grad_u
        return 0.5 * (flux - at(reaction, x) * u + at(source, x)) ** 2

    return Energy(density, jet=jets.with_laplacian)


def fosls(source: Any = 0.0, *, kappa: Any = 1.0, reaction: Any = 0.0) -> Energy:
    """First-order system least squares: ∫ ½ |σ - κ ∇u|² + ½ (div σ - c u + f)².

    The model returns (u, σ), `(1 + dim,)`; hold u alone: `Exact(g, components=(0,))`. No
    second derivatives, and κ need not be smooth; a scalar or a matrix.

    Source: Cai, Lazarov, Manteuffel, McCormick, *First-order system least squares* (1994),
    doi:10.1137/0731091; for networks: Cai, Chen, Liu, Liu (2020),
    doi:10.1016/j.jcp.2020.109707.
    """

    def density(x, u, grad_u):
        k = jnp.asarray(at(kappa, x))
        slope = k @ grad_u[0] if k.ndim == 2 else k * grad_u[0]
        law = jnp.sum((u[1:] - slope) ** 2)
        balance = jnp.trace(grad_u[1:]) - at(reaction, x) * u[0] + at(source, x)
        return 0.5 * (law + balance**2)

    return Energy(density)
