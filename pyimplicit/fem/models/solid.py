"""Elastic solids, at small and at large deformations."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp

from ..coefficients import averages, evaluate
from ..forms import div, dot, energy, grad, inner, sym_grad
from ..loops import assemble, fits
from ..matrices import source_vector
from ..problem import Problem
from ..space import FunctionSpace


def elasticity(
    V: FunctionSpace,
    dirichlet: dict | None = None,
    *,
    force: str | None = None,
    plane: Literal["strain", "stress"] = "strain",
    **conditions,
) -> Problem:
    """-∇·σ = f with σ = 2μ ε + λ tr(ε) I, ε = (∇u + ∇uᵀ)/2: linear, isotropic.

    Coefficients: Young's modulus "E" [stress], Poisson's ratio "nu", and the name that
    `force` gives to f [force / volume]. `neumann` are tractions σn [stress]. `plane`: what
    vanishes out of the plane in 2-D.
    """
    _check(V, "elasticity")
    if plane not in ("strain", "stress"):
        raise ValueError(
            "`elasticity(plane=...)` must be 'strain' or 'stress'.\n"
            f"Got {plane!r}.\nIn 3-D leave it out."
        )

    form = Elasticity(force, plane if V.mesh.dim == 2 else "strain")
    return Problem(V, form, dirichlet, **conditions)


@dataclasses.dataclass(frozen=True)
class Elasticity:
    """The form of `elasticity`; for P1 it is also assembled by `pyimplicit.fem.loops`."""

    force: str | None
    plane: str

    structure = "spd"

    def __call__(self, u, v, w):
        mu, lam = lame(w.E, w.nu, self.plane)
        strain = 2 * mu * inner(sym_grad(u), sym_grad(v)) + lam * div(u) * div(v)
        return strain if self.force is None else strain - dot(getattr(w, self.force), v)

    def loops(self, V, coefficients, points, boundary):
        """See `linear_system`."""
        del boundary
        if not fits(V):
            return None
        moduli = functools.partial(lame, plane=self.plane)
        means = averages(V, moduli, coefficients["E"], coefficients["nu"])
        if means is None:
            return None
        values = assemble(V, "Elasticity", jnp.stack(means, axis=1), points=points)
        if self.force is None:
            return values, None
        force = evaluate(V, coefficients[self.force])
        return values, -source_vector(V, force, points)


def lame(E, nu, plane: str = "strain"):
    """Lamé's constants (μ, λ) of a body in three dimensions or in plane strain; for plane
    stress the λ that gives σ = 2μ ε + λ tr(ε) I in the plane."""
    mu = E / (2 * (1 + nu))
    lam = E * nu / ((1 + nu) * (1 - 2 * nu))
    return mu, lam if plane == "strain" else 2 * mu * lam / (lam + 2 * mu)


def neo_hookean(F, w):
    """Strain energy density μ/2 (tr FᵀF - d) - μ ln J + λ/2 (ln J)², J = det F: infinite
    (NaN) where matter turns inside out. In 2-D it is plane strain.

    Source: Bonet, Wood 2008, doi:10.1017/CBO9780511755446, eq. (6.27).
    """
    log = jnp.log(determinant(F))
    return w.mu / 2 * (inner(F, F) - len(F)) - w.mu * log + w.lam / 2 * log**2


def hyperelasticity(
    V: FunctionSpace,
    dirichlet: dict | None = None,
    *,
    density: Callable = neo_hookean,
    force: str | None = None,
    **conditions,
) -> Problem:
    """The displacement u that minimises ∫ ψ(I + ∇u) - f·u: large deformations.

    `density(F, w)`: ψ [stress], by default neo-Hookean with the coefficients "mu" and
    "lam". `neumann` are dead tractions per area of the undeformed body. Solve with
    `steps=...` for large loads, and for given displacements of more than a cell.
    """
    _check(V, "hyperelasticity")

    @energy
    def form(u, w):
        stored = density(jnp.eye(V.mesh.dim, dtype=u.dtype) + grad(u), w)
        return stored if force is None else stored - dot(getattr(w, force), u)

    return Problem(V, form, dirichlet, **conditions)


def determinant(F):
    """det F of a matrix up to 3 x 3, written out: its derivatives need no inverse."""
    if len(F) == 1:
        return F[0, 0]
    if len(F) == 2:
        return F[0, 0] * F[1, 1] - F[0, 1] * F[1, 0]
    return dot(F[0], jnp.cross(F[1], F[2]))


def _check(V: FunctionSpace, name: str) -> None:
    if not isinstance(V, FunctionSpace) or V.components != V.mesh.dim:
        raise ValueError(
            f"`{name}` must have as many components as dimensions.\nGot {V}.\n"
            "Make the space with FunctionSpace(mesh, ..., components=mesh.dim)."
        )
