"""One unknown: diffusion in its linear and nonlinear forms, waves of one frequency."""

import jax.numpy as jnp

from ..diffusion import Diffusion
from ..forms import dot, energy, grad
from ..problem import Problem
from ..space import FunctionSpace


def poisson(
    V: FunctionSpace,
    dirichlet: dict | None = None,
    *,
    kappa: str = "kappa",
    source: str | None = None,
    **conditions,
) -> Problem:
    """-∇·(κ∇u) = f, u given on `dirichlet`, no flux through the rest of the boundary.

    `kappa`, `source`: the names of the coefficients κ > 0 and f (no source if `None`)
    in `problem.solve({"kappa": ..., ...})`.
    """
    return Problem(V, Diffusion(kappa, source), dirichlet, **conditions)


def obstacle(
    V: FunctionSpace,
    dirichlet: dict | None = None,
    *,
    lower=None,
    upper=None,
    kappa: str = "kappa",
    source: str | None = "f",
    **conditions,
) -> Problem:
    """A membrane kept between obstacles: -∇·(κ∇u) = f where lower < u < upper, >= f where
    it rests on `lower`, <= f where it is pressed against `upper`; numbers or arrays of the
    shape of u.

    *Derivative*: that of the equations with the contact set held, which is right unless an
    unknown just touches without force.
    """
    form = Diffusion(kappa, source)
    return Problem(V, form, dirichlet, lower=lower, upper=upper, **conditions)


def reaction_diffusion(
    V: FunctionSpace, dirichlet: dict | None = None, **conditions
) -> Problem:
    """-∇·(κ∇u) + r(u) = f. Coefficients: "kappa", "f", and the function "reaction", e.g.
    `pi.fem.law(lambda u: u**3)` or a network."""

    def form(u, v, w):
        return w.kappa * dot(grad(u), grad(v)) + (w.reaction(u.value) - w.f) * v

    return Problem(V, form, dirichlet, **conditions)


def nonlinear_diffusion(
    V: FunctionSpace, dirichlet: dict | None = None, **conditions
) -> Problem:
    """-∇·(κ(u)∇u) = f. Coefficients: "f", and the function "kappa", e.g.
    `pi.fem.law(lambda u: 1 + u**2)` or a network; it must stay positive."""

    def form(u, v, w):
        return w.kappa(u.value) * dot(grad(u), grad(v)) - w.f * v

    return Problem(V, form, dirichlet, **conditions)


def advection_diffusion(
    V: FunctionSpace,
    dirichlet: dict | None = None,
    *,
    stabilise: bool = True,
    **conditions,
) -> Problem:
    """-∇·(κ∇u) + b·∇u = f. Coefficients: "kappa", "b" (a vector, e.g.
    `pi.fem.constant([1.0, 0.0])` or a function of x) and "f".

    `stabilise`: upwinding along streamlines (SUPG), for cell Péclet numbers |b|h/2κ above
    1; the residual b·∇u - f is tested by τ b·∇v with τ = h/2|b| (coth Pe - 1/Pe). For P1
    and Q1, whose ∇·(κ∇u) in a cell is taken as zero.

    Source: Brooks, Hughes 1982, doi:10.1016/0045-7825(82)90071-8.
    """
    check_upwind("advection_diffusion", V, stabilise)

    def form(u, v, w):
        plain = w.kappa * dot(grad(u), grad(v)) + (dot(w.b, grad(u)) - w.f) * v
        if not stabilise:
            return plain
        tau = upwind_time(dot(w.b, w.b), w.kappa, w.h)
        return plain + tau * (dot(w.b, grad(u)) - w.f) * dot(w.b, grad(v))

    return Problem(V, form, dirichlet, **conditions)


def check_upwind(name: str, V: FunctionSpace, stabilise: bool) -> None:
    if stabilise and V.element.order > 1:
        raise ValueError(
            f"`{name}(stabilise=True)` must get P1 or Q1.\n"
            f"Got {V.element.name}.\nPass stabilise=False, or use a linear element."
        )


def upwind_time(speed2, kappa, h):
    """τ = h/2|b| (coth Pe - 1/Pe), Pe = |b|h/2κ, from |b|²; the time to be upwind by."""
    speed = jnp.sqrt(jnp.where(speed2 > 0, speed2, 1.0))
    peclet = speed * h / (2 * kappa)
    large = jnp.maximum(peclet, 1e-2)
    upwind = jnp.where(peclet > 1e-2, 1 / jnp.tanh(large) - 1 / large, peclet / 3)
    return jnp.where(speed2 > 0, h / (2 * speed) * upwind, 0.0)


def helmholtz(
    V: FunctionSpace,
    dirichlet: dict | None = None,
    *,
    absorbing: tuple[str, ...] = (),
    **conditions,
) -> Problem:
    """-Δu - k²u = f, time dependence exp(-iωt). Coefficients: "k" [1/length] and "f".

    `absorbing`: boundaries with ∂u/∂n = iku, which let plane waves out at right angles; u
    is complex then (and where a coefficient is): make k complex, `k + 0j`.
    """

    def out(u, v, w):
        return -1j * w.k * u * v

    def form(u, v, w):
        return dot(grad(u), grad(v)) - w.k**2 * u * v - w.f * v

    boundary = {name: out for name in absorbing} | conditions.pop("boundary", {})
    structure = conditions.pop("structure", "symmetric")
    return Problem(V, form, dirichlet, boundary=boundary, structure=structure, **conditions)


def p_laplacian(
    V: FunctionSpace,
    dirichlet: dict | None = None,
    *,
    epsilon: float = 1e-6,
    **conditions,
) -> Problem:
    """-∇·((ε² + |∇u|²)^(p/2-1) ∇u) = f. Coefficients: the exponent "p" > 1, and "f".

    ε keeps the tangent regular where ∇u = 0. Far from p = 2, `start` the solve at the
    solution of a nearer p.
    """

    @energy
    def form(u, w):
        size2 = epsilon**2 + dot(grad(u), grad(u))
        return size2 ** (w.p / 2) / w.p - w.f * u

    return Problem(V, form, dirichlet, **conditions)


def minimal_surface(
    V: FunctionSpace, dirichlet: dict | None = None, **conditions
) -> Problem:
    """The surface z = u(x) of least area over the mesh: ∇·(∇u / √(1 + |∇u|²)) = 0."""

    @energy
    def form(u, w):
        return jnp.sqrt(1 + dot(grad(u), grad(u)))

    return Problem(V, form, dirichlet, **conditions)
