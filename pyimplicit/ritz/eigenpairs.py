r"""Eigenpairs -div(κ∇u) + V u = λ u: several by deflation, and the first of many variables.

Deflation minimises the quotient of u less its projection on what was found before; then
the Ritz values on the span of all (Rayleigh–Ritz) undo what errors of the first pass into
the later ones, and choose among pairs of one eigenvalue.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from . import jets
from .boundary import AbstractBoundary, Exact
from .checks import as_domain
from .domains import AbstractDomain, Rule
from .energies import Energy, at, rayleigh
from .functional import summed
from .quadrature import fine_rule
from .result import RitzResult
from .solve import solve


@dataclasses.dataclass(frozen=True)
class Eigenpairs:
    """`values`: Ritz values `(k,)`, ascending; on an accurate rule each is at least the
    eigenvalue of its number. `fields`: functions x -> u, orthonormal in L². `results`: of
    the solves, in their order."""

    values: jax.Array
    fields: tuple[Callable, ...]
    results: tuple[RitzResult, ...]


def eigenpairs(
    domain: AbstractDomain,
    boundary: AbstractBoundary = Exact(),
    models: Sequence[Any] = (),
    *,
    potential: Any = 0.0,
    kappa: Any = 1.0,
    fine: Rule | None = None,
    **options,
) -> Eigenpairs:
    r"""The least eigenvalues, as many as there are `models`, one after the other.

    **Arguments:**

    - `domain`, `boundary`: see `solve`; `Exact()` or `Natural()`.
    - `models`: one for each pair. A later eigenfunction changes sign: not exp of a network.
    - `potential`, `kappa`: V and κ, numbers or functions of x.
    - `fine`: the rule of the Ritz values; `ritz.fine_rule(domain)` if not given.
    - `options`: of `solve`.

    **Returns:** `Eigenpairs`. A function that is nearly in the span of the others is
    reported as an error.

    ??? cite "Reference"
        E, Yu, *The deep Ritz method* (2018), Section 3.3, for the first pair.
        Parlett, *The symmetric eigenvalue problem* (1998), Chapter 11, for the last step.
    """
    if not models:
        raise ValueError(
            "`eigenpairs(models=...)` must be a list of models, one for each pair.\n"
            f"Got {models!r}.\nPass e.g. [ritz.MLP(2, key=k) for k in keys]."
        )
    domain = as_domain(domain)
    fine = fine_rule(domain) if fine is None else fine
    results: list[RitzResult] = []
    for model in models:
        against = tuple(found.field for found in results)
        energy = rayleigh(potential, kappa=kappa, against=against)
        results.append(solve(energy, domain, boundary, model, fine=fine, **options))
    fields = [found.field for found in results]
    values, vectors = ritz_values(fields, domain, fine, potential, kappa)
    mixed = tuple(_combination(fields, c) for c in vectors.T)
    return Eigenpairs(values, mixed, tuple(results))


def ritz_values(fields, domain, rule: Rule, potential: Any = 0.0, kappa: Any = 1.0):
    """Ritz values of a span, ascending `(k,)`, and coefficients of the functions
    `(k, k)`, one a column, orthonormal in L²."""
    k = len(fields)

    def forms(x, w):
        jet = [jets.first(fn, x, domain.dim) for fn in fields]
        u = jnp.stack([u for u, _ in jet])
        g = jnp.stack([g for _, g in jet])
        mass = jnp.outer(u, u)
        return w * jnp.stack([at(kappa, x) * g @ g.T + at(potential, x) * mass, mass])

    nodes = rule.interior.x, rule.interior.w
    A, B = jax.jit(lambda: summed(forms, nodes, 2048))()
    scale = 1 / jnp.sqrt(jnp.diagonal(B))
    lengths, axes = jnp.linalg.eigh(scale[:, None] * B * scale)
    if not bool(lengths[0] > 1e-10):
        raise ValueError(
            "Ritz values need linearly independent functions.\n"
            f"Got {k}, of which normalised combinations have norm² {float(lengths[0]):.2g}."
            "\nTake more steps, or other keys for the models."
        )
    whiten = scale[:, None] * axes / jnp.sqrt(lengths)
    values, turn = jnp.linalg.eigh(whiten.T @ A @ whiten)
    return values, whiten @ turn


def _combination(fields, c) -> Callable:
    return lambda x: sum(a * fn(x) for a, fn in zip(c, fields, strict=True))


def ground_state(factor: Callable, potential: Any = 0.0) -> Energy:
    r"""The Rayleigh quotient of u = D w, D = 0 on ∂Ω, as an energy of w.

    `factor`: D, x -> a scalar, e.g. `domain.distance`; `potential`: V. Solve with
    `Natural()` for w; the eigenfunction is D w. As

        |∇(Dw)|² = D²|∇w|² - D ΔD w² + div(w² D ∇D)

    and the last term integrates to zero, the quotient is

        ∫ D²|∇w|² + (V - ΔD/D) D² w² / ∫ D² w².

    The integrand of the numerator nearly is a multiple of the denominator's: the closer D
    is to the eigenfunction, the smaller the variance of the quotient on random points (as
    with the local energy of quantum Monte Carlo). In ten dimensions this is what makes
    reports to 0.1 % possible; see `Centred` for the points.
    """

    def density(x, w, grad_w):
        dim = grad_w.shape[-1]
        D, _, laplacian = jets.with_laplacian(lambda y: factor(y[:dim]), x, dim)
        energy = D**2 * (grad_w @ grad_w + at(potential, x) * w**2) - D * laplacian * w**2
        return jnp.stack([energy, D**2 * w**2])

    return Energy(
        density,
        combine=lambda integrals: integrals[0] / integrals[1],
        curvature=lambda integrals: jnp.array([1.0, 0.0]) / integrals[1],
        mass=lambda integrals: integrals[1],
        scale_free=True,
    )
