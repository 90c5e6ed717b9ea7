"""Problems in time, for `evolve`: their forms and the forms of their time derivatives."""

import jax.numpy as jnp

from ..forms import grad, inner
from ..problem import Problem
from ..space import FunctionSpace
from .scalar import poisson


def heat(
    V: FunctionSpace,
    dirichlet: dict | None = None,
    *,
    kappa: str = "kappa",
    source: str | None = None,
    density: str | None = None,
    **conditions,
) -> Problem:
    """ρ u' - ∇·(κ∇u) = f. `kappa`, `source`, `density`: the names of the coefficients κ > 0
    [e.g. W m⁻¹ K⁻¹], f [W m⁻³] (none if `None`) and ρ > 0, the heat capacity
    [J m⁻³ K⁻¹] (1 if `None`), in `evolve(problem, u0, t, {"kappa": ..., ...})`."""
    return poisson(
        V, dirichlet, kappa=kappa, source=source, mass=_inertia(density), **conditions
    )


def wave(
    V: FunctionSpace,
    dirichlet: dict | None = None,
    *,
    kappa: str = "kappa",
    source: str | None = None,
    density: str | None = None,
    **conditions,
) -> Problem:
    """ρ u'' - ∇·(κ∇u) = f, waves of speed √(κ/ρ); the names are those of `heat`. Use it as
    `evolve(problem, u0, t, {"kappa": ...}, velocity=v0, method=CrankNicolson())`, which
    keeps the energy ∫ ρ u'²/2 + κ |∇u|²/2."""
    return heat(V, dirichlet, kappa=kappa, source=source, density=density, **conditions)


def burgers(V: FunctionSpace, dirichlet: dict | None = None, **conditions) -> Problem:
    """u' + (u·∇)u - ν Δu = f, with as many components as dimensions. Coefficients: the
    viscosity "nu" > 0 [length²/time] and "f". Plain Galerkin: cells must be shorter than
    about 2ν/|u| where u is steep."""
    if V.components != V.mesh.dim:
        raise ValueError(
            "`burgers(V)` must have as many components as dimensions.\n"
            f"Got {V.components} in {V.mesh.dim}-D.\n"
            "Make the space with FunctionSpace(mesh, ..., components=mesh.dim)."
        )

    def form(u, v, w):
        slope = jnp.atleast_2d(grad(u))
        advection = (slope @ jnp.atleast_1d(u.value)).reshape(u.shape)
        return inner(advection - w.f, v) + w.nu * inner(grad(u), grad(v))

    return Problem(V, form, dirichlet, **conditions)


def _inertia(density: str | None):
    if density is None:
        return None
    return lambda u, v, w: getattr(w, density) * u * v
