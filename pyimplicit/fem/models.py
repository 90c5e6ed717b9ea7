"""Ready-made problems."""

from .diffusion import Diffusion
from .problem import Problem
from .space import FunctionSpace


def poisson(
    V: FunctionSpace,
    dirichlet: dict | None = None,
    *,
    kappa: str = "kappa",
    source: str | None = None,
) -> Problem:
    """-∇·(κ∇u) = f, u given on `dirichlet`, no flux through the rest of the boundary.

    `kappa`, `source`: the names of the coefficients κ > 0 and f (no source if `None`)
    in `problem.solve({"kappa": ..., ...})`.
    """
    return Problem(V, Diffusion(kappa, source), dirichlet)
