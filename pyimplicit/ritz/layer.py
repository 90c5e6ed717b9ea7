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
from typing import Any, NamedTuple

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
from .domains import AbstractDomain, Rule
from .energies import as_energy
from .functional import Discrete, Functional
from .judged import apart
from .quadrature import AbstractQuadrature, Gauss, other, usual
from .result import RitzResult
from .solve import solve


APART = (
    "pyimplicit.ritz.layer: other nodes give another function or another derivative: (a) "
    "too few nodes for the directions that are kept: pass a `quadrature` with more, or a "
    "larger `cutoff` (near singularities 1e-4); (b) parameters far from those of the "
    "training; (c) the rule is as good as you need it: raise `accuracy`"
)


class Degeneracy(NamedTuple):
    """How well the layer is determined at some p.

    `parameters`: of the network. `rank`: directions that are kept. `kept`, `dropped`: the
    least eigenvalue of G that is kept and the largest that is not, as parts of the largest
    of all. `curvature`: the least and the largest eigenvalue of the Hessian in y; near 1
    if the family is nearly flat, and not positive, or NaN, if the point is no minimum: then
    do not use its derivatives. `missed`: ½ Σ gᵢ²/λᵢ over what was dropped, the energy that
    these directions might have gained (λᵢ taken at least 1e-15 of the largest).
    `apart`: by how much other nodes differ, see `accuracy` of `layer`.
    """

    parameters: int
    rank: int
    kept: float
    dropped: float
    curvature: tuple[float, float]
    missed: float
    apart: float


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
    rule: Rule
    check: Rule
    basis: jax.Array
    spectrum: jax.Array
    solver: Any
    adjoint: AbstractAdjoint
    max_steps: int = eqx.field(static=True)
    throw: bool = eqx.field(static=True)
    accuracy: float = eqx.field(static=True)
    chunk: int = eqx.field(static=True)

    def __hash__(self):
        """By identity: `jax.jit(layer.solve)` asks for it."""
        return id(self)

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
        return ravel_pytree(model)[0] + self.basis @ y

    def coordinates(self, params) -> Solution:
        """The minimiser y, `(rank,)`, in the energy norm's own units. `stats` has
        "apart", the largest relative difference to what other nodes give."""
        start = jnp.zeros(self.basis.shape[1], self.basis.dtype)
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
        on = lambda rule: stop_gradient(
            eqx.filter_closure_convert(lambda y, p: self.value(y, p, rule), y, params)
        )
        y, params, f = stop_gradient((y, params, self.functional(params)))
        square = Discrete(f, self.rule, 0).square(self._theta(y))
        # Functions that are smaller than what a rounding error of θ makes are zero.
        least = jnp.finfo(y.dtype).eps * self.spectrum[-1]
        size = jnp.sqrt(jnp.maximum(jnp.abs(square), least))
        return stop_gradient(apart(on(self.rule), on(self.check), y, params, size))

    def solve(self, params) -> Solution:
        y, status, stats = self.coordinates(params)
        return Solution(self._theta(y), status, stats)

    def field(self, params) -> Callable:
        """x -> u at one point."""
        return self.functional(params).field(self.solve(params).value)

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
            left = jnp.arange(len(values)) < len(values) - len(y)
            missed = 0.5 * jnp.sum(jnp.where(left, (vectors.T @ g) ** 2 / floor, 0.0))
            return jnp.linalg.eigvalsh(H), missed, stats["apart"]

        curvature, missed, off = look(self, params)
        p, r = self.basis.shape
        parts = self.spectrum / self.spectrum[-1]
        dropped = float(parts[p - r - 1]) if p > r else 0.0
        ends = float(curvature[0]), float(curvature[-1])
        kept = float(parts[p - r])
        return Degeneracy(p, r, kept, dropped, ends, float(missed), float(off))


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
      and for its derivative along one direction of the parameters.
    - `options`: of `solve`, for the training.

    **Returns:** the `Layer`, and the `RitzResult` of the training.

    For parameters far from `params` a conditioned network may serve better: `Family`.
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
    if getattr(start[2], "moving", False):
        raise ValueError(
            "`layer(boundary=...)` must not change from step to step: the layer is the "
            f"minimum of one energy.\nGot {start[2]!r}.\nTake ritz.Exact, ritz.Nitsche, or "
            "ritz.Penalty with a number as weight."
        )
    found = solve(*start, model, quadrature=quadrature, chunk=chunk, **options)
    rule = quadrature.rule(domain, jax.random.key(0))
    check = other(quadrature).rule(domain, jax.random.key(1))
    f = Functional(*start, found.model, chunk)
    gram = jax.jit(lambda theta: Discrete(f, rule, 0).gram(theta))
    values, vectors = jnp.linalg.eigh(gram(found.theta))
    kept = values > cutoff * values[-1]
    basis = vectors[:, kept] / jnp.sqrt(values[kept])
    made = Layer(
        energy, boundary_of, domain, found.model, rule, check, basis, values, solver,
        adjoint, max_steps, throw, accuracy, chunk,
    )  # fmt: skip
    return made, found
