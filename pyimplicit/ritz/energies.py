r"""Energies I(u) = ∫ e(x, u, ∇u) dx + ∫ b(x, n, u) ds, as densities.

A density is a plain function of one point. What is ready here are functions that return
an `Energy`; coefficients are numbers or functions of x.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from . import jets


class Energy(eqx.Module):
    """A functional of u by its density.

    - `density`: `density(x, u, grad_u)`, a scalar; x is `(dim,)`, u what the model
      returns, `()` or `(m,)`, grad_u `(*u.shape, dim)`. May return a vector
      `(k,)` of integrands; then `combine` is needed.
    - `boundary`: `boundary(x, n, u)`, a scalar, integrated over the boundary: loads (with
      a minus sign) and Robin terms; n is the outward normal.
    - `jet`: what the density gets after x; `ritz.jets.first`, or `jets.with_laplacian`,
      e.g. for the residual ½ (Δu + f)² of a PINN.
    - `combine`: from the integrals `(k,)` to the energy; the integral itself if None.
    - `mass`: from the integrals to ∫u², of energies that do not change if u is multiplied
      by a number: what `layer` makes one.
    - `curvature`: from the integrals to the coefficients `(k,)` of the second variations
      of the integrands in the metric of a natural gradient; the gradient of `combine` if
      None.
    - `scale_free`: the energy does not change if u is multiplied by a number, as quotients:
      boundary values then must be `Exact` or `Natural`.
    """

    density: Callable
    boundary: Callable | None = None
    jet: Callable = eqx.field(static=True, default=jets.first)
    combine: Callable | None = None
    curvature: Callable | None = None
    mass: Callable | None = None
    scale_free: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if not callable(self.density):
            raise TypeError(
                "`Energy(density)` must be a function density(x, u, grad_u).\n"
                f"Got {self.density!r}.\nReturn a scalar from it."
            )

    def total(self, integrals: jax.Array) -> jax.Array:
        """The energy, of its integrals `()` or `(k,)`."""
        return integrals if self.combine is None else self.combine(integrals)

    def coefficients(self, integrals: jax.Array) -> jax.Array:
        if self.curvature is not None:
            return self.curvature(integrals)
        return jax.grad(self.total)(integrals)


def as_energy(energy) -> Energy:
    """A plain density as an `Energy`."""
    if isinstance(energy, Energy):
        return energy
    if callable(energy):
        return Energy(energy)
    raise TypeError(
        "An energy must be an `Energy` or a function e(x, u, grad_u).\n"
        f"Got {energy!r}.\nTake for example ritz.poisson(source=1.0)."
    )


def at(coefficient: Any, x) -> Any:
    """A coefficient at x: a number, or a function of x."""
    return coefficient(x) if callable(coefficient) else coefficient


def poisson(
    source: Any = 0.0,
    *,
    kappa: Any = 1.0,
    reaction: Any = 0.0,
    flux: Any = None,
    robin: Any = None,
) -> Energy:
    r"""-div(κ ∇u) + c u = f: ∫ ½ κ |∇u|² + ½ c u² - f u.

    `kappa`: κ, a scalar or a matrix `(dim, dim)`. `reaction`: c. `flux`: g in the Neumann
    condition κ ∂u/∂n = g, a load -∫ g u ds. `robin`: α in κ ∂u/∂n + α u = g.
    """

    def density(x, u, grad_u):
        k = jnp.asarray(at(kappa, x))
        stretched = k @ grad_u if k.ndim == 2 else k * grad_u
        return 0.5 * grad_u @ stretched + (0.5 * at(reaction, x) * u - at(source, x)) * u

    def boundary(x, n, u):
        load = 0.0 if flux is None else at(flux, x)
        return (0.5 * (0.0 if robin is None else at(robin, x)) * u - load) * u

    return Energy(density, None if flux is None and robin is None else boundary)


def p_laplacian(p: float, source: Any = 0.0, *, epsilon: float = 0.0) -> Energy:
    """-div(|∇u|^(p - 2) ∇u) = f: ∫ (|∇u|² + ε²)^(p/2) / p - f u, p > 1.

    With p < 2, or where ∇u vanishes, an `epsilon` keeps the second variation finite.
    """
    if not p > 1:
        raise ValueError(
            f"`p_laplacian(p)` must be larger than 1.\nGot {p!r}.\n"
            "At 1 the energy is no longer strictly convex."
        )
    if p < 2 and epsilon == 0:
        raise ValueError(
            "`p_laplacian(p, epsilon=...)` must have a positive epsilon where p < 2.\n"
            f"Got p = {p!r} and epsilon = 0.\nThe second variation is infinite where ∇u "
            "= 0; take e.g. 1e-4."
        )
    return Energy(
        lambda x, u, g: (g @ g + epsilon**2) ** (p / 2) / p - at(source, x) * u,
    )


def ginzburg_landau(epsilon: float, source: Any = 0.0) -> Energy:
    """Allen–Cahn: ∫ ½ ε² |∇u|² + ¼ (u² - 1)² - f u, double well; not convex. A vector u
    is the Ginzburg–Landau order parameter, with |u|² in the well."""

    def density(x, u, grad_u):
        gradients = 0.5 * epsilon**2 * jnp.sum(grad_u**2)
        well = 0.25 * (jnp.sum(u**2) - 1) ** 2
        return gradients + well - jnp.sum(at(source, x) * u)

    return Energy(density)


def obstacle(psi: Any, source: Any = 0.0, *, weight: float = 1e3) -> Energy:
    """Poisson's energy with u >= ψ by a penalty, + ½ weight max(ψ - u, 0)².

    The violation is of the order 1/weight. `psi`: a number or a function of x.
    """

    def density(x, u, grad_u):
        below = jnp.maximum(at(psi, x) - u, 0.0)
        return 0.5 * grad_u @ grad_u - at(source, x) * u + 0.5 * weight * below**2

    return Energy(density)


def linear_elasticity(lam, mu, force: Any = 0.0, *, traction: Any = None) -> Energy:
    """∫ ½ λ (div u)² + μ |sym ∇u|² - f·u - ∫ t·u ds; u `(dim,)` [length].

    `lam`, `mu`: Lamé's constants [pressure]. `force`: per volume, a vector or a function
    of x. `traction`: likewise, [pressure], on the boundary.
    """

    def density(x, u, grad_u):
        strain = 0.5 * (grad_u + grad_u.T)
        volume = 0.5 * at(lam, x) * jnp.trace(strain) ** 2
        return volume + at(mu, x) * jnp.sum(strain**2) - jnp.sum(at(force, x) * u)

    return Energy(density, _traction(traction))


def neo_hookean(lam, mu, force: Any = 0.0, *, traction: Any = None) -> Energy:
    """Hyperelasticity with F = I + ∇u: ∫ ½ μ (|F|² - dim - 2 ln J) + ½ λ (ln J)² - f·u.

    Where J = det F is not positive the energy is NaN, and steps that lead there are
    shortened. Source: Bonet, Wood, *Nonlinear continuum mechanics* (2008), Eq. (6.27).
    """

    def density(x, u, grad_u):
        dim = grad_u.shape[-1]
        F = jnp.eye(dim, dtype=grad_u.dtype) + grad_u
        log_J = jnp.log(_det(F))
        shear = 0.5 * at(mu, x) * (jnp.sum(F**2) - dim - 2 * log_J)
        return shear + 0.5 * at(lam, x) * log_J**2 - jnp.sum(at(force, x) * u)

    return Energy(density, _traction(traction))


def rayleigh(
    potential: Any = 0.0, *, kappa: Any = 1.0, against: tuple[Callable, ...] = ()
) -> Energy:
    r"""∫ κ|∇u|² + V u² / ∫ u², whose least value is the first eigenvalue.

    `against`: functions x -> u_k (`dim` as of the domain); the quotient is that of u less
    its L² projection on them, so that its least value is the next eigenvalue (deflation).
    The metric of the natural gradient is that of the numerator: a full step then is one of
    the inverse iteration.
    """
    k = len(against)

    def density(x, u, grad_u):
        dim = grad_u.shape[-1]
        others = [jets.first(fn, x, dim) for fn in against]
        values = jnp.stack([u, *(v for v, _ in others)])
        slopes = jnp.stack([grad_u, *(g for _, g in others)])
        mass = jnp.outer(values, values)
        energy = at(kappa, x) * slopes @ slopes.T + at(potential, x) * mass
        return jnp.concatenate([energy.ravel(), mass.ravel()])

    def forms(integrals):
        A, B = integrals.reshape(2, k + 1, k + 1)
        return A, B

    def combine(integrals):
        A, B = forms(integrals)
        if k:
            c = jnp.linalg.solve(B[1:, 1:], B[1:, 0])
            p = jnp.concatenate([jnp.ones(1, c.dtype), -c])
        else:
            p = jnp.ones(1, A.dtype)
        return (p @ A @ p) / (p @ B @ p)

    def curvature(integrals):
        _, B = forms(integrals)
        size = B[0, 0]
        if k:
            size = size - B[0, 1:] @ jnp.linalg.solve(B[1:, 1:], B[1:, 0])
        return jnp.zeros_like(integrals).at[0].set(1 / size)

    # Less its projection u has another: only without one is this the eigenfunction's.
    mass = None if k else lambda integrals: integrals[1]
    return Energy(density, combine=combine, curvature=curvature, mass=mass, scale_free=True)


def _traction(traction) -> Callable | None:
    if traction is None:
        return None
    return lambda x, n, u: -jnp.sum(at(traction, x) * u)


def _det(F):
    if F.shape == (2, 2):
        return F[0, 0] * F[1, 1] - F[0, 1] * F[1, 0]
    if F.shape == (3, 3):
        return jnp.dot(F[0], jnp.cross(F[1], F[2]))
    return jnp.linalg.det(F)
