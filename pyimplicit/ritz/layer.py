r"""Ritz as a layer: p ↦ u(p), the function of least energy I(u; p), differentiable in p.

A network's parameters θ are not unique: the Hessian of I in θ is singular in directions
that do not change u, and nearly so in many more. What is unique is u. So θ moves in

    θ = θ₀ + U y,   U = V Λ^(-1/2),   G = V Λ Vᵀ (the eigenvalues above a cutoff),

with G the metric of the energy at a trained θ₀ (`functional`): |y| is the energy norm of
∂u/∂θ U y, directions that u does not feel are left out, and the Hessian in y is near to the
identity. The layer is the minimiser over y, a smooth r-dimensional family of functions
through u_θ₀; `pi.minimize` finds it, and differentiates it by the implicit function theorem
with this well-conditioned Hessian: exact for the family and the rule. How far that is
from the derivative of the equation's own solution is the approximation error of the family,
which has the tangents of the network: as for u itself, test it by a finer model.

A minimum is one on the nodes of its rule. With too few of them for the directions that are
kept, u jumps between them, and its derivatives are wrong: on its own nodes nothing shows.
So each solve is judged on other nodes (`judged`).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .._status import Solution, Status
from .._tree import stop_gradient
from ..adjoint import AbstractAdjoint, Implicit
from ..engine.failure import fail_unless_zero
from ..minimize import minimize
from ..solvers.optimistix import LBFGS
from .boundary import AbstractBoundary, Exact
from .checks import as_domain
from .domains import AbstractDomain, Rule
from .energies import as_energy
from .functional import Discrete, Functional
from .judged import apart, side_by_side
from .quadrature import AbstractQuadrature, Gauss, pair, usual
from .result import RitzResult
from .solve import solve
from .tangents import Degeneracy, Tangents, tangents


APART = (
    "pyimplicit.ritz.layer: other nodes give another function or another derivative: (a) "
    "too few nodes for the directions that are kept: pass a `quadrature` with more, or a "
    "larger `cutoff` (near singularities 1e-4); (b) parameters far from those of the "
    "training; (c) the rule is as good as you need it: raise `accuracy`"
)


class Layer(eqx.Module):
    """`layer(params, x)`: u at points `(n, dim)`, of least energy; made by `ritz.layer`.

    `solve(params)`: a `pi.Solution` with the parameters θ of the network, status and
    statistics; `field(params)`: x -> u at one point; `energy(params)`: the least energy.
    Works under jit, vmap, grad, jvp and their compositions.

    *Derivative*: of the condition ∂I/∂y = 0, any order; everything that the functions of
    `params` close over is differentiated too. **Errors:** as `pi.minimize`: parameters
    too far from those it was trained at do not converge, which is reported. Where other
    nodes give another u or another derivative, the status is `inaccurate`; with
    `throw=False` values and derivatives are NaN there.
    """

    energy_of: Callable
    boundary_of: Callable
    domain: AbstractDomain = eqx.field(static=True)
    model: Any
    rules: Rule
    counts: tuple[int, int] = eqx.field(static=True)
    tangents: Tangents
    solver: Any
    adjoint: AbstractAdjoint
    max_steps: int = eqx.field(static=True)
    throw: bool = eqx.field(static=True)
    accuracy: float = eqx.field(static=True)
    chunk: int = eqx.field(static=True)

    def __hash__(self):
        """By identity, as `==`: `jax.jit(layer.solve)` asks for both."""
        return id(self)

    def __eq__(self, other):
        return self is other

    @property
    def rule(self) -> Rule:
        """The nodes that the layer is a minimum on; `rules` has others beside them, and is
        filled up."""
        own = zip(self.rules, self.counts, strict=True)
        return Rule(*(jax.tree.map(lambda a, n=n: a[0, :n], nodes) for nodes, n in own))

    def functional(self, params) -> Functional:
        """The energy with these parameters."""
        energy, boundary = as_energy(self.energy_of(params)), self.boundary_of(params)
        return Functional(energy, self.domain, boundary, self.model, self.chunk)

    def value(self, y, params, rule: Rule | None = None) -> jax.Array:
        """The energy at coordinates y, `(rank,)`, on the layer's rule if none is given.

        Near the parameters of the training y ↦ y - ∂I/∂y is a contraction, Newton's step
        with the metric instead of the Hessian: the cell of a deep equilibrium model.
        """
        f = self.functional(params)
        rule = self.rule if rule is None else rule
        return Discrete(f, rule, 0).value(self._theta(y))

    def _theta(self, y):
        model = jax.lax.stop_gradient(eqx.filter(self.model, eqx.is_inexact_array))
        return ravel_pytree(model)[0] + self.tangents.basis @ y

    def coordinates(self, params) -> Solution:
        """The minimiser y, `(rank,)`, in the energy norm's own units. `stats` has
        "apart", the largest relative difference to what other nodes give."""
        start = jnp.zeros(self.tangents.basis.shape[1], self.tangents.basis.dtype)
        y, status, stats = minimize(
            self.value, start, params, solver=self.solver, adjoint=self.adjoint,
            max_steps=self.max_steps, throw=self.throw,
        )  # fmt: skip
        off = self._apart(y, params)
        wrong = (status == 0) & ~(off <= self.accuracy)  # true for NaN
        status = jnp.where(wrong, Status.inaccurate, status)
        y = y * jnp.where(status == 0, 1.0, jnp.nan)  # a factor: derivatives are NaN too
        if self.throw:
            y = fail_unless_zero(y, wrong, ("", APART))
        return Solution(y, status, {**stats, "apart": off})

    @eqx.filter_jit
    def _apart(self, y, params):
        params = jax.tree.map(
            lambda a: jnp.asarray(a) if eqx.is_array_like(a) else a, params
        )
        first = jax.tree.map(lambda a: a[0], self.rules)
        value = eqx.filter_closure_convert(self.value, y, params, first)
        value, y, params, f = stop_gradient((value, y, params, self.functional(params)))
        square = Discrete(f, self.rule, 0).square(self._theta(y))
        # Functions that are smaller than what a rounding error of θ makes are zero.
        least = jnp.finfo(y.dtype).eps * self.tangents.spectrum[-1]
        size = jnp.sqrt(jnp.maximum(jnp.abs(square), least))
        return stop_gradient(apart(value, self.rules, y, params, size))

    def solve(self, params) -> Solution:
        y, status, stats = self.coordinates(params)
        return Solution(self._theta(y), status, stats)

    def field(self, params) -> Callable:
        """x -> u at one point; of energies with a `mass`, u of mass one on the rule."""
        f, theta = self.functional(params), self.solve(params).value
        u = f.field(theta)
        if f.energy.mass is None:
            return u
        size = jnp.sqrt(f.energy.mass(f.integrals(theta, self.rule.interior)))
        return lambda x: u(x) / size

    def __call__(self, params, x: jax.Array) -> jax.Array:
        return jax.vmap(self.field(params))(x)

    def energy(self, params) -> jax.Array:
        """The least energy on the layer's rule, with what the treatment adds."""
        return self.value(self.coordinates(params).value, params)

    def degeneracy(self, params) -> Degeneracy:
        """A report; not for use under jit."""

        @eqx.filter_jit
        def look(layer, params):
            y, _, stats = layer.coordinates(params)
            H = jax.hessian(layer.value)(y, params)
            problem = Discrete(layer.functional(params), layer.rule, 0)
            theta = layer._theta(y)
            g = jax.grad(problem.value)(theta)
            values, vectors = jnp.linalg.eigh(problem.gram(theta))
            floor = jnp.maximum(values, 1e-15 * values[-1])
            left = jnp.arange(len(values)) < len(values) - self.tangents.above
            missed = 0.5 * jnp.sum(jnp.where(left, (vectors.T @ g) ** 2 / floor, 0.0))
            return jnp.linalg.eigvalsh(H), missed, stats["apart"]

        curvature, missed, off = look(self, params)
        held = self.tangents
        (p, r), parts = held.basis.shape, held.spectrum / held.spectrum[-1]
        below = p - held.above
        dropped = float(parts[below - 1]) if below else 0.0
        ends = float(curvature[0]), float(curvature[-1])
        kept, off = float(parts[below]), float(off)
        return Degeneracy(p, r, kept, dropped, ends, float(missed), off, held.disputed)


def layer(
    energy: Callable,
    params: Any,
    domain: AbstractDomain,
    boundary: AbstractBoundary | Callable = Exact(),
    model: Any = None,
    *,
    quadrature: AbstractQuadrature | None = None,
    cutoff: float = 1e-8,
    solver: Any = LBFGS(),
    adjoint: AbstractAdjoint = Implicit(),
    max_steps: int = 200,
    throw: bool = True,
    accuracy: float = 0.05,
    chunk: int = 2048,
    **options,
) -> tuple[Layer, RitzResult]:
    r"""Trains a network at `params` and makes a layer of it.

    **Arguments:**

    - `energy`: a function of `params` to an `Energy` (or a density), e.g.
      `lambda p: ritz.poisson(source, kappa=p)`.
    - `params`: any pytree: where to train, and the middle of where the layer is used.
    - `domain`, `model`: see `solve`. `boundary`: a treatment, or a function of `params`
      to one.
    - `quadrature`: a fixed rule; by default Gauss nodes, some 32 for each coordinate, up
      to two dimensions, else fixed Sobol points.
    - `cutoff`: eigenvalues of the metric below it, as parts of the largest, are dropped.
      Smaller: a better family near `params`, which is more curved away from there.
    - `solver`, `adjoint`, `max_steps`, `throw`: of `pi.minimize` in y. Newton's method
      would do near `params` only.
    - `accuracy`: by how much u and its derivatives may differ between the nodes of
      `quadrature` and others, relative, in the energy norm; where it is more the solve has
      failed. An estimate: one Newton step on other nodes (as many, at other places), for u
      and for its derivative along each of up to eight parameters, and along four mixtures
      of all if there are more: what is wrong with one of many counts as a part of these.
      Not seen: derivatives by arrays that `energy` closes over; second ones; what none of
      the nodes sees; and what the family lacks.
    - `options`: of `solve`, for the training.

    **Returns:** the `Layer`, and the `RitzResult` of the training.

    For parameters far from `params` a conditioned network may serve better: `Family`.

    *Eigenvalues:* with `rayleigh` or `ground_state`, `energy(params)` is the least one,
    which must be simple, and u has ∫u² = 1, with the sign that it was trained to.

    *Multipliers* have no layer: the saddle point of u and λ is determined only where the
    boundary values of the kept directions are richer than the space of λ (the inf-sup
    condition), which no space is for all networks; `Exact` and `Nitsche` hold the same
    values with u alone.
    """
    if not callable(energy):
        raise TypeError(
            "`layer(energy)` must be a function of the parameters to an `Energy`.\n"
            f"Got {energy!r}.\nPass e.g. lambda p: ritz.poisson(1.0, kappa=p)."
        )
    if not 0 < cutoff < 1:
        raise ValueError(
            f"`layer(cutoff=...)` must lie in (0, 1).\nGot {cutoff!r}.\nTake 1e-8."
        )
    domain = as_domain(domain)
    if quadrature is None:
        quadrature = usual(domain, fixed=True)
    if not (isinstance(quadrature, Gauss) or getattr(quadrature, "fixed", True)):
        raise ValueError(
            "`layer(quadrature=...)` must be a fixed rule: the layer is a minimum on its "
            f"nodes.\nGot {quadrature!r}.\nPass fixed=True, or ritz.Gauss(4, 8)."
        )
    if not accuracy > 0:
        raise ValueError(
            f"`layer(accuracy=...)` must be positive.\nGot {accuracy!r}.\nTake 0.05."
        )
    held = boundary
    boundary_of = (lambda p: held) if isinstance(held, AbstractBoundary) else held
    start = as_energy(energy(params)), domain, boundary_of(params)
    _check(*start[::2])
    found = solve(*start, model, quadrature=quadrature, chunk=chunk, **options)
    rule, check = pair(quadrature, domain)
    rules, counts = side_by_side(rule, check), (len(rule.interior.w), len(rule.boundary.w))
    f = Functional(*start, found.model, chunk)
    made = Layer(
        energy, boundary_of, domain, found.model, rules, counts,
        tangents(f, rules, found.theta, cutoff), solver, adjoint, max_steps, throw,
        accuracy, chunk,
    )  # fmt: skip
    return made, found


def _check(energy, boundary) -> None:
    """Refuses energies and treatments that have no layer."""
    if getattr(boundary, "moving", False):
        raise ValueError(
            "`layer(boundary=...)` must not change from step to step: the layer is the "
            f"minimum of one energy.\nGot {boundary!r}.\nTake ritz.Exact, ritz.Nitsche, or "
            "ritz.Penalty with a number as weight."
        )
    if energy.combine is not None and energy.mass is None:
        raise ValueError(
            "`layer(energy)` must say what u is up to a factor, if it combines integrals.\n"
            "Got an energy with `combine` and without `mass`: ritz.rayleigh(against=...), "
            "or one of your own.\nTake ritz.rayleigh or ritz.ground_state for the first "
            "pair, or give `Energy(mass=...)`."
        )
