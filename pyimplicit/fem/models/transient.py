"""Problems in time, for `evolve`: their forms and the forms of their time derivatives."""

import jax.numpy as jnp

from ..forms import grad, inner
from ..problem import Problem
from ..space import FunctionSpace
from .scalar import check_upwind, poisson, upwind_time


def heat(
    V: FunctionSpace,
    dirichlet: dict | None = None,
    *,
    density: str | None = None,
    **options,
) -> Problem:
    """ρ u' - ∇·(κ∇u) = f, for `evolve(problem, u0, t, {"kappa": ..., ...})`: `poisson` in
    time, whose options it takes. The coefficients κ > 0 [e.g. W m⁻¹ K⁻¹] and f [W m⁻³] have
    the names `kappa` and `source` as there; `density`: that of ρ > 0, the heat capacity
    [J m⁻³ K⁻¹] (1 if `None`)."""
    return poisson(V, dirichlet, mass=_inertia(density), **options)


def wave(V: FunctionSpace, dirichlet: dict | None = None, **options) -> Problem:
    """ρ u'' - ∇·(κ∇u) = f, waves of speed √(κ/ρ), with the options of `heat`. Use it as
    `evolve(problem, u0, t, {"kappa": ...}, velocity=v0, method=CrankNicolson())`, which
    keeps the energy ∫ ρ u'²/2 + κ |∇u|²/2."""
    return heat(V, dirichlet, **options)


def burgers(
    V: FunctionSpace,
    dirichlet: dict | None = None,
    *,
    stabilise: bool = False,
    **conditions,
) -> Problem:
    """u' + (u·∇)u - ν Δu = f, with as many components as dimensions. Coefficients: the
    viscosity "nu" > 0 [length²/time] and "f".

    Plain Galerkin needs cells shorter than about 2ν/|u| where u is steep. `stabilise`
    lets fronts be two cells wide: upwinding along streamlines as in `advection_diffusion`,
    (u·∇)u - f tested by τ (u·∇)v, for P1 and Q1. It is exact for steady flows; a moving
    one, whose u' is left out there, is smoothed at first order in the size of cells.
    """
    if V.components != V.mesh.dim:
        raise ValueError(
            "`burgers(V)` must have as many components as dimensions.\n"
            f"Got {V.components} in {V.mesh.dim}-D.\n"
            "Make the space with FunctionSpace(mesh, ..., components=mesh.dim)."
        )
    check_upwind("burgers", V, stabilise)

    def along(u, v):
        slope = jnp.atleast_2d(grad(v))
        return (slope @ jnp.atleast_1d(u.value)).reshape(u.shape)

    def form(u, v, w):
        change = along(u, u) - w.f
        plain = inner(change, v) + w.nu * inner(grad(u), grad(v))
        if not stabilise:
            return plain
        return plain + upwind_time(inner(u, u), w.nu, w.h) * inner(change, along(u, v))

    return Problem(V, form, dirichlet, **conditions)


def _inertia(density: str | None):
    if density is None:
        return None
    return lambda u, v, w: getattr(w, density) * u * v
