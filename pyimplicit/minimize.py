"""Minima as layers: z(θ) = argmin f(z, θ)."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx

from ._status import Solution
from ._tree import flatten, ravel
from .adjoint import AbstractAdjoint, Implicit, Problem
from .iterate import all_finite, iterate
from .linear.jacobian import Jacobian, check_jacobian
from .problem import check_options, finish, prepare, with_tolerances
from .solvers.abstract import AbstractMapMinimiser
from .solvers.levenberg_marquardt import LevenbergMarquardt
from .solvers.newton import Newton
from .solvers.optimistix import LBFGS
from .solvers.options import check_ends


SYMMETRIC = frozenset({lx.symmetric_tag, lx.positive_semidefinite_tag})
# Corrections by Newton's method after a solver that watches function values, which tell
# z only to about the square root of the precision.
POLISH = 3


def minimize(
    fn: Callable[[Any, Any], Any],
    z0: Any,
    params: Any = None,
    *,
    solver: optx.AbstractMinimiser | optx.AbstractRootFinder = LBFGS(),
    adjoint: AbstractAdjoint = Implicit(),
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 1000,
    throw: bool = True,
    jacobian: Jacobian = None,
    options: dict[str, Any] | None = None,
) -> Solution:
    r"""Finds z that minimises f(z, θ), by a condition that holds there.

    **Arguments:**

    - `fn`: `fn(z, params)`, a real scalar.
    - `solver`: `LBFGS()` (the default), `BFGS`, `NonlinearCG`, `GradientDescent`,
      `NelderMead`, any optimistix minimiser; with constraints or non-smooth terms
      `ProximalGradient`, `ProjectedGradient`, `MirrorDescent`, `BlockCoordinateDescent`;
      or a root finder (`Newton`, `NewtonKrylov`), for ∇f = 0.
    - `adjoint`: `Implicit` or `Unroll`; with a constrained solver also `Phantom` and
      `OneStep`.
    - `jacobian`: how the Hessian is stored.
    - `z0`, `params`, `rtol`, `atol`, `max_steps`, `throw`, `options`: see `root`.

    **Returns:** a `Solution`; `stats` has "iterations" and "residual": the norm of ∇f at
    `value`, or for a constrained solver of z - map(z).

    **Derivative:** of the condition ∇f(z, θ) = 0: ż = -(∇²f)⁻¹ ∂(∇f)/∂θ θ̇; of a constrained
    solver, of z = map(z, θ) (a projected or proximal gradient step). With `Implicit`, a
    smooth minimum is first improved by up to three Newton corrections where they help:
    function values tell z to about half the digits only.

    **Errors:** as `root`: with `throw=False` a solve that failed has its last iterate as
    `value`, whose derivatives are NaN. A minimum with a singular Hessian has a value but no
    derivative: asking for one raises.

    ??? cite "Reference"
        Blondel et al., *Efficient and modular implicit differentiation* (2022).
        arXiv:2105.15183
    """
    check_options("minimize", adjoint, max_steps, rtol, atol)
    check_jacobian(jacobian, "minimize")
    check_ends("minimize", solver, options)
    if not isinstance(solver, optx.AbstractMinimiser | optx.AbstractRootFinder):
        raise TypeError(
            "`minimize(solver=...)` must be a minimiser or a root finder.\n"
            f"Got {solver!r}.\nTake for example pi.LBFGS() or pi.Newton()."
        )
    return _minimize(
        fn, z0, params, solver, adjoint, rtol, atol, max_steps, throw, jacobian, options
    )


@eqx.filter_jit
def _minimize(
    fn, z0, params, solver, adjoint, rtol, atol, max_steps, throw, jacobian, options
):
    fn, z0, params, restore = prepare("minimize", fn, z0, params, square=False)
    _check_scalar(fn, z0, params)
    solver = with_tolerances(solver, rtol, atol, z0)
    gradient = lambda z, params: jax.grad(lambda z: fn(z, params))(z)
    condition, map, tags = gradient, None, SYMMETRIC
    if isinstance(solver, AbstractMapMinimiser):
        map = lambda z, params: solver.map(fn, z, params)
        condition = lambda z, params: jax.tree.map(jnp.subtract, z, map(z, params))
        tags = frozenset()
    objective = gradient if isinstance(solver, optx.AbstractRootFinder) else fn
    return _solve(
        "minimize", objective, condition, map, tags,
        (z0, params, solver, adjoint, max_steps, throw, jacobian, options, restore),
    )  # fmt: skip


def least_squares(
    fn: Callable[[Any, Any], Any],
    z0: Any,
    params: Any = None,
    *,
    solver: optx.AbstractLeastSquaresSolver | optx.AbstractMinimiser = LevenbergMarquardt(),
    adjoint: AbstractAdjoint = Implicit(),
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 256,
    throw: bool = True,
    jacobian: Jacobian = None,
    options: dict[str, Any] | None = None,
) -> Solution:
    r"""Finds z that minimises ½‖r(z, θ)‖².

    **Arguments:**

    - `fn`: `fn(z, params)`, the residuals r: a pytree of any size.
    - `solver`: `LevenbergMarquardt()` (the default), `GaussNewton`, any optimistix
      least-squares solver or minimiser.
    - `jacobian`: how the Hessian of ½‖r‖² is stored (for the adjoint).
    - `options`: run-time options of the solver; {"jac": "fwd"}: r has forward derivatives
      only (loops of unknown length), {"jac": "bwd"}: reverse ones only.
    - the others: see `minimize`.

    **Returns:** a `Solution`; `stats["residual"]` is the norm of the gradient ∇r ᵀ r at
    `value`.

    **Derivative:** of ∇rᵀ r = 0 with the full Hessian ∇rᵀ∇r + Σ rᵢ∇²rᵢ, hence exact also
    where the residuals are not zero (Gauss–Newton's Hessian would not be).

    **Errors:** as `minimize`.
    """
    check_options("least_squares", adjoint, max_steps, rtol, atol)
    check_jacobian(jacobian, "least_squares")
    check_ends("least_squares", solver, options)
    if not isinstance(solver, optx.AbstractLeastSquaresSolver | optx.AbstractMinimiser):
        raise TypeError(
            "`least_squares(solver=...)` must be a least-squares solver or a minimiser.\n"
            f"Got {solver!r}.\nTake for example pi.LevenbergMarquardt()."
        )
    return _least_squares(
        fn, z0, params, solver, adjoint, rtol, atol, max_steps, throw, jacobian, options
    )


@eqx.filter_jit
def _least_squares(
    fn, z0, params, solver, adjoint, rtol, atol, max_steps, throw, jacobian, options
):
    fn, z0, params, restore = prepare("least_squares", fn, z0, params, square=False)
    solver = with_tolerances(solver, rtol, atol, z0)
    cost = lambda z, params: 0.5 * jnp.sum(ravel(fn(z, params)) ** 2)
    forward = (options or {}).get("jac") == "fwd"
    gradient = functools.partial(_forward_gradient, fn) if forward else jax.grad(cost)
    objective = cost if isinstance(solver, optx.AbstractMinimiser) else fn
    return _solve(
        "least_squares", objective, gradient, None, SYMMETRIC,
        (z0, params, solver, adjoint, max_steps, throw, jacobian, options, restore),
    )  # fmt: skip


def _forward_gradient(fn, z, params):
    """rᵀ ∇r by forward mode: one product for each unknown."""
    y, unflatten = flatten(z)
    along = lambda y: ravel(fn(unflatten(y), params)).astype(y.dtype)
    return unflatten(along(y) @ jax.jacfwd(along)(y))


def _solve(name, objective, condition, map, tags, call):
    z0, params, solver, adjoint, max_steps, throw, jacobian, options, restore = call
    options = {"jacobian": jacobian, **(options or {})}
    how: dict[str, Any] = dict(max_steps=max_steps, options=options)
    how["tags"] = tags if isinstance(solver, optx.AbstractRootFinder) else frozenset()
    rough = map is None and isinstance(solver, optx.AbstractMinimiser)

    def run(z0, params, loop):
        z, status, steps = iterate(solver, objective, z0, params, loop=loop, **how)
        if rough and isinstance(adjoint, Implicit):
            z = _polished(condition, jacobian, z, params, solver, status == 0)
        return z, status, steps

    problem = Problem(name, run, condition, map, jacobian, tags, max_steps, throw, solver)
    z, status, steps = adjoint.solve(problem, z0, params)
    return finish(problem, restore, z, params, status, steps)


def _polished(gradient, jacobian, z, params, solver, converged):
    """`z` after Newton corrections for ∇f = 0, as long as they make ∇f smaller."""
    newton = Newton(rtol=solver.rtol, atol=solver.atol, jacobian=jacobian)
    given = lambda z, params: (gradient(z, params), None)
    size = lambda z: jnp.linalg.norm(ravel(gradient(z, params)))
    struct = jax.eval_shape(gradient, z, params)
    state = newton.init(given, z, params, {}, struct, None, SYMMETRIC)

    def body(carry):
        z, before, k, _ = carry
        new, *_ = newton.step(given, z, params, {}, state, SYMMETRIC)
        after = size(new)
        better = (after < 0.5 * before) & all_finite(new)  # false for NaN
        keep = lambda a, b: jnp.where(better, a, b)
        return jax.tree.map(keep, new, z), keep(after, before), k + 1, better

    start = z, size(z), jnp.array(0), converged
    return jax.lax.while_loop(lambda c: c[3] & (c[2] < POLISH), body, start)[0]


def _check_scalar(fn, z0, params) -> None:
    out = jax.eval_shape(fn, z0, params)
    leaf = jax.tree.leaves(out)
    if (
        len(leaf) != 1
        or leaf[0].shape != ()
        or not jnp.issubdtype(leaf[0].dtype, jnp.floating)
    ):
        raise ValueError(
            "`minimize(fn, ...)` needs a function with a real scalar value.\n"
            f"Got {out}.\nFor a vector of residuals use pi.least_squares."
        )
