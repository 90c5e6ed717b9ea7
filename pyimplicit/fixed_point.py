"""Fixed points as layers: z = f(z, θ)."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import optimistix as optx

from ._status import Solution
from ._tree import flatten, ravel
from .adjoint import AbstractAdjoint, Implicit, Problem
from .iterate import iterate
from .linear.jacobian import Jacobian, check_jacobian
from .problem import check_options, check_same, finish, prepare, with_tolerances
from .reversible import Reversible
from .root import find_root
from .solvers.anderson import Anderson
from .solvers.picard import Picard


def fixed_point(
    fn: Callable[[Any, Any], Any],
    z0: Any,
    params: Any = None,
    *,
    solver: optx.AbstractIterativeSolver | None = None,
    adjoint: AbstractAdjoint = Implicit(),
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 256,
    throw: bool = True,
    jacobian: Jacobian = None,
    options: dict[str, Any] | None = None,
) -> Solution:
    r"""Finds z with z = f(z, θ).

    **Arguments:**

    - `fn`: `fn(z, params)`, like `z` in structure and shapes. Float arrays it closes over
      are differentiated like `params`.
    - `z0`: first guess, a pytree; not differentiated. One sample: for a batch use
      `jax.vmap`, and each sample stops by itself.
    - `solver`: `Anderson()` (the default), `Picard`, any optimistix fixed-point solver; or
      a root finder (`Newton`, `Broyden`, `NewtonKrylov`, …), for f(z) - z = 0.
    - `adjoint`: `Implicit`, `Unroll`, `Phantom`, `OneStep`, `Reversible`. The last is an
      iteration of its own, and takes no solver.
    - `jacobian`: how ∂f/∂z - I is stored (a `SparsePattern` has the diagonal in it).
    - `params`, `rtol`, `atol`, `max_steps`, `throw`, `options`: see `root`.

    **Returns:** a `Solution`; `value` is like `z0`, `stats` has "iterations" and
    "residual", the Euclidean norm of f(z) - z at `value`.

    **Derivative:** ż = (I - ∂f/∂z)⁻¹ ∂f/∂θ θ̇ with `Implicit`; see the adjoint.

    **Errors:** as `root`.
    """
    check_options("fixed_point", adjoint, max_steps, rtol, atol)
    check_jacobian(jacobian, "fixed_point")
    kinds = (
        optx.AbstractFixedPointSolver,
        optx.AbstractRootFinder,
        optx.AbstractLeastSquaresSolver,
        optx.AbstractMinimiser,
    )
    if isinstance(adjoint, Reversible):
        if solver is not None:
            raise ValueError(
                "`fixed_point(adjoint=Reversible(beta))` is an iteration of its own.\n"
                f"Got also solver={solver!r}.\nLeave the solver out."
            )
        solver = Picard()
    elif solver is None:
        solver = Anderson()
    elif not isinstance(solver, kinds):
        raise TypeError(
            "`fixed_point(solver=...)` must be a fixed-point solver or a root finder.\n"
            f"Got {solver!r}.\nTake for example pi.Anderson(), pi.Picard() or pi.Newton()."
        )
    check_same("fixed_point", fn, z0, params)
    return _fixed_point(
        fn, z0, params, solver, adjoint, rtol, atol, max_steps, throw, jacobian, options
    )


@eqx.filter_jit
def _fixed_point(
    fn, z0, params, solver, adjoint, rtol, atol, max_steps, throw, jacobian, options
):
    given = _onto_unknowns(fn)
    fn, z0, params, restore = prepare("fixed_point", given, z0, params)
    solver = with_tolerances(solver, rtol, atol, z0)
    options = {"jacobian": jacobian, **(options or {})}
    residual = lambda z, params: _minus(fn(z, params), z)

    def run(z0, params, loop):
        if isinstance(solver, optx.AbstractFixedPointSolver):
            how: dict[str, Any] = dict(max_steps=max_steps, options=options, loop=loop)
            return iterate(solver, fn, z0, params, **how)
        return find_root(solver, residual, z0, params, options, max_steps, loop)

    problem = Problem(
        "fixed_point", run, residual, fn, jacobian, frozenset(), max_steps, throw, solver
    )
    z, status, steps = adjoint.solve(problem, z0, params)
    return finish(problem, restore, z, params, status, steps)


def _onto_unknowns(fn):
    """`fn` with an answer in z's own structure: floating leaves only, in z's dtypes."""

    def onto(z, params):
        out = fn(z, params)
        cast = lambda new, old: new.astype(old.dtype) if eqx.is_inexact_array(old) else old
        return jax.tree.map(cast, out, z)

    return onto


def _minus(a, b):
    y, unflatten = flatten(b)
    return unflatten(ravel(a).astype(y.dtype) - y)
