r"""How far a function is from the minimiser: against a reference, and without one.

Let u* minimise I, and v have the same boundary values. Then, for quadratic I,

    I(v) - I(u*) = ½ |v - u*|²                                          (energy norm)

never negative, so a negative gap tells that the rule, the boundary values or the reference
are wrong. Without u*, a flux q bounds it from above (Prager, Synge 1947): see `flux_bound`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import fem
from . import jets
from .boundary import Natural
from .checks import as_domain
from .domains import AbstractDomain, Ball, Box, Rule
from .energies import Energy, as_energy, at, poisson
from .functional import summed
from .quadrature import fine_rule
from .result import RitzResult
from .solve import solve


class Error(NamedTuple):
    """Of v against a reference u, on one rule.

    `energy`: ½ |v - u|², for energies that are not quadratic the Bregman distance
    I(v) - I(u) - I'(u)(v - u). `relative`: its root over that of ½ |u|², for quadratic
    energies the relative error in the energy norm. `l2`: the relative error in L². `gap`:
    I(v) - I(u), which equals `energy` if u is the minimiser, v has its boundary values and
    the rule is accurate.
    """

    energy: float
    relative: float
    l2: float
    gap: float

    def one_sided(self, tol: float = 1e-10) -> bool:
        """Whether the gap is at least -`tol` and within 1 % of `energy`: what exact
        boundary values, an accurate rule and a true minimiser must give."""
        near = abs(self.gap - self.energy) <= tol + 0.01 * abs(self.energy)
        return self.gap >= -tol and near


def error(
    energy: Energy | Callable,
    domain: AbstractDomain,
    field: Callable,
    reference: Callable,
    rule: Rule | None = None,
) -> Error:
    """The error of a function against one in closed form (or trained longer).

    `field`, `reference`: x -> u at one point. `rule`: `ritz.fine_rule(domain)` if not
    given; take another than one that was trained on. Energies with `combine` (Rayleigh's
    quotient) have no such error: compare eigenvalues.
    """
    energy, domain = _plain(energy), as_domain(domain)
    rule = fine_rule(domain) if rule is None else rule
    jet = lambda fn, x: energy.jet(lambda x: jnp.asarray(fn(x)), x, domain.dim)

    def inside(x, w):
        return w * _numbers(energy.density, x, jet(field, x), jet(reference, x))

    total = _integrated(inside, (rule.interior.x, rule.interior.w))
    if (b := energy.boundary) is not None:

        def around(x, w, n):
            density = lambda x, u: b(x, n, u)
            jet = (jnp.asarray(field(x)),), (jnp.asarray(reference(x)),)
            return w * _numbers(density, x, *jet).at[2:4].set(0)

        total += _integrated(around, tuple(rule.boundary))
    return _error(total)


def fem_error(
    energy: Energy | Callable, field: Callable, V, u, *, boundaries: Sequence[str] = ()
) -> Error:
    """The error of a function against a finite element solution, on the rule of its mesh.

    `V`: a `fem.FunctionSpace`, `u`: its coefficients. For a conforming space
    I(u) >= min I, so that `gap` is not more than the true one; it is negative where v is
    the better of the two. `boundaries`: those of the mesh, by name, that an energy with a
    `boundary` is integrated over: all of them, unless it vanishes on some.
    """
    energy = _plain(energy)
    b = energy.boundary
    if b is not None and not boundaries:
        raise ValueError(
            "`fem_error(boundaries=...)` must say where the energy's boundary is.\nGot an "
            f"energy with loads or Robin terms there, and {boundaries!r}.\nPass names, "
            f"e.g. {tuple(V.mesh.boundaries)}."
        )

    def number(i: int):
        def integrand(w):
            value, slope = _array(w.u), _array(fem.grad(w.u))
            mine = jets.first(field, w.x, w.x.shape[-1])
            return _numbers(energy.density, w.x, mine, (value, slope))[i]

        def around(w, b: Any = b):
            density = lambda x, u: b(x, w.n, u)
            jet = (jnp.asarray(field(w.x)),), (jnp.asarray(_array(w.u)),)
            return _numbers(density, w.x, *jet)[i]

        total = fem.integrate(V, integrand, u=u)
        if i in (0, 1, 4) and b is not None:  # the L² norms are those of the inside
            total += sum(fem.integrate(V, around, u=u, boundary=n) for n in boundaries)
        return total

    return _error(jax.jit(lambda: jnp.stack([number(i) for i in range(5)]))())


def _plain(energy) -> Energy:
    energy = as_energy(energy)
    if energy.combine is not None:
        raise ValueError(
            "The error in energy needs an energy that is an integral.\nGot one with "
            "`combine`, e.g. ritz.rayleigh.\nCompare eigenvalues instead."
        )
    return energy


def _array(field):
    return getattr(field, "value", field)


def _numbers(density, x, jet, reference):
    """½D²e[d, d], the same of the reference, |v - u|², |u|² and e(v) - e(u) at a point.

    The second variation is taken a third of the way from u to v: exact for densities of
    third degree, and without the cancellation of differences.
    """
    v, u = jets.flat(jet), jets.flat(reference)
    e = lambda q: density(x, *jets.unflat(q, jet))

    def half(at_, d):
        slope = lambda q: jax.jvp(e, (q,), (d,))[1]
        return 0.5 * jax.jvp(slope, (at_,), (d,))[1]

    d = v - u
    m = jnp.size(jet[0])  # the values come first in a jet
    return jnp.stack(
        [half(u + d / 3, d), half(u, u), d[:m] @ d[:m], u[:m] @ u[:m], e(v) - e(u)]
    )


def _integrated(fn, nodes):
    return jax.jit(lambda: summed(fn, nodes, 2048))()


def _error(total) -> Error:
    energy, size, square, mass, gap = (float(t) for t in total)
    root = lambda a, b: math.sqrt(abs(a / b)) if b else math.nan
    return Error(energy, root(energy, size), root(square, mass), gap)


class FluxBound(NamedTuple):
    """`bound` >= ½ |v - u*|² = I(v) - min I. `misfit`: ½‖κ^(-1/2)(q - κ∇v)‖²;
    `imbalance`: ½‖f + div q - c v‖², weighted by 1/c, or by Friedrichs' constant squared
    over the least κ. `lower` <= min I: I(v) less the bound. `result`: that of q."""

    bound: float
    misfit: float
    imbalance: float
    lower: float
    result: RitzResult


def flux_bound(
    field: Callable,
    domain: AbstractDomain,
    flux: Any,
    source: Any = 0.0,
    *,
    kappa: Any = 1.0,
    reaction: Any = 0.0,
    least_kappa: float | None = None,
    friedrichs: float | None = None,
    weight: float = 0.1,
    fine: Rule | None = None,
    **options,
) -> FluxBound:
    r"""A bound for the energy error of v in -div(κ∇u) + c u = f, u = g on ∂Ω, v = g there.

    **Arguments:**

    - `field`: v, x -> u at one point, exact on ∂Ω (`Exact`).
    - `flux`: a model of q, x -> `(dim,)`, e.g. `ritz.MLP(2, out=2, key=key)`, or
      `Equilibrated`; trained by `solve` with `options`.
    - `source`, `kappa` (scalar), `reaction`: f, κ, c, as in `poisson`.
    - `least_kappa`: a lower bound of κ; κ itself if a number.
    - `friedrichs`: C with ‖w‖ <= C ‖∇w‖ for all w that vanish on ∂Ω; that of the bounding
      box for a `Box` or `Ball`. Not needed if c > 0 everywhere.
    - `weight`: β of the training (below).
    - `fine`: the rule of the bound; `ritz.fine_rule(domain)` if not given.

    **Returns:** a `FluxBound`; guaranteed but for the error of `fine`.

    For every q with a square-integrable divergence, with a = ‖κ^(-1/2)(q - κ∇v)‖,

        |v - u*| <= a + C ‖f + div q‖ / min √κ                                  (c = 0)
        |v - u*|² <= a² + ‖c^(-1/2) (f + div q - c v)‖²                         (c > 0)

    and equality holds in both for q = κ∇u* (if c = 0, for all q with f + div q = 0 up to
    the error of q). q minimises the squares, for c = 0 with (1 + β) a² + (1 + 1/β) ….

    ??? cite "Reference"
        Prager, Synge, *Approximations in elasticity based on the concept of function
        space* (1947). doi:10.1090/qam/25902. Repin, *A posteriori estimates for partial
        differential equations* (2008), Eqs. (3.2.7), (3.2.19). doi:10.1515/9783110203042
    """
    domain = as_domain(domain)
    fine = fine_rule(domain) if fine is None else fine
    reactive = callable(reaction) or reaction != 0
    scale = 1.0
    if not reactive:
        scale = _constant(domain, friedrichs) / math.sqrt(_least(kappa, least_kappa))
    dim = domain.dim

    def parts(x, q, grad_q):
        v, slope = jets.first(field, x, dim)
        k, c = at(kappa, x), at(reaction, x)
        misfit = q - k * slope
        rest = at(source, x) + jnp.trace(grad_q) - c * v
        over = rest / c if reactive else scale**2 * rest
        return jnp.stack([0.5 * misfit @ misfit / k, 0.5 * rest * over])

    beta = 0.0 if reactive else weight
    factors = jnp.array([1 + beta, 1.0 if reactive else 1 + 1 / beta])
    energy = Energy(lambda x, q, grad_q: factors @ parts(x, q, grad_q))
    found = solve(energy, domain, Natural(), flux, fine=fine, **options)
    jet = lambda x: jets.first(found.field, x, dim)
    nodes = fine.interior.x, fine.interior.w
    own = poisson(source, kappa=kappa, reaction=reaction).density
    of_v = lambda x: own(x, *jets.first(field, x, dim))[None]
    every = lambda x, w: w * jnp.concatenate([parts(x, *jet(x)), of_v(x)])
    a, b, energy_of_v = map(float, _integrated(every, nodes))
    bound = a + b if reactive else (math.sqrt(a) + math.sqrt(b)) ** 2
    return FluxBound(bound, a, b, energy_of_v - bound, found)


class Equilibrated(eqx.Module):
    """q = particular + (∂ψ/∂y, -∂ψ/∂x) in the plane: with div particular = -f the balance
    holds exactly, whatever ψ is, and the bound is Prager and Synge's own.

    `particular`: x -> `(2,)`; `stream`: ψ, a model, x -> a scalar.
    """

    particular: Callable = eqx.field(static=True)
    stream: Any

    def __call__(self, x):
        slope = jax.grad(self.stream)(x)
        return self.particular(x) + jnp.stack([slope[1], -slope[0]])


def _least(kappa, given) -> float:
    if given is None and not callable(kappa) and jnp.ndim(kappa) == 0:
        given = float(kappa)
    if given is None or not given > 0:
        raise ValueError(
            "`flux_bound(least_kappa=...)` must be a positive lower bound of κ.\n"
            f"Got {given!r}.\nPass it where κ is a function."
        )
    return float(given)


def _constant(domain, given) -> float:
    """Friedrichs' constant of a box around the domain: 1/√λ₁, and λ₁ falls as domains
    grow."""
    if given is not None:
        return float(given)
    if isinstance(domain, Box):
        lengths = domain.lengths
    elif isinstance(domain, Ball):
        lengths = np.full(domain.dim, 2 * domain.radius)
    else:
        raise ValueError(
            "`flux_bound(friedrichs=...)` must be given for this domain.\n"
            f"Got {type(domain).__name__} and None.\nThat of a box of sides L_i around it "
            "is 1 / (π √Σ 1/L_i²)."
        )
    return 1 / (math.pi * math.sqrt(float(np.sum(1 / lengths**2))))
