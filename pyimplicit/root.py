"""Equations as layers: F(z, θ) = 0."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx

from ._status import Solution
from ._tree import ravel
from .adjoint import AbstractAdjoint, Implicit, Problem
from .iterate import iterate
from .linear.jacobian import Jacobian, check_jacobian
from .problem import check_options, finish, prepare, with_tolerances
from .solvers.newton import Newton
from .solvers.options import check_ends


def root(
    fn: Callable[[Any, Any], Any],
    z0: Any,
    params: Any = None,
    *,
    solver: optx.AbstractIterativeSolver = Newton(),
    adjoint: AbstractAdjoint = Implicit(),
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 256,
    throw: bool = True,
    jacobian: Jacobian = None,
    options: dict[str, Any] | None = None,
) -> Solution:
    r"""Finds z with F(z, θ) = 0.

    **Arguments:**

    - `fn`: `fn(z, params)`, a pytree with as many (real) numbers as `z`. Float arrays it
      closes over are differentiated like `params`.
    - `z0`: first guess, a pytree; not differentiated. Floating leaves are the unknowns
      (complex ones too, whether `fn` is holomorphic or not); integer and boolean leaves
      are handed to `fn` and returned as they are, unless there are no others.
    - `params`: any pytree, θ. Differentiated.
    - `solver`: `Newton`, `Chord`, `NewtonKrylov`, `Broyden`, or any optimistix root
      finder, least-squares solver or minimiser (the last two of ‖F‖², and only a root
      counts).
    - `adjoint`: how the layer is differentiated: `Implicit`, `Unroll`.
    - `rtol`, `atol`: in place of the solver's.
    - `max_steps`: iterations at most.
    - `throw`: raise on failure. False: `status` says what happened, `value` is the last
      iterate, and its derivatives are NaN where it is no root.
    - `jacobian`: how ∂F/∂z is stored, for the solver and the adjoint: `pi.Dense()`,
      `pi.MatrixFree()`, a `SparsePattern` (with rows and columns of the raveled
      unknowns), or a function (z, params) -> array or lineax operator.
    - `options`: run-time options of an optimistix solver (`lower`, `upper`).

    **Returns:** a `Solution`; `value` is like `z0`, `stats` has "iterations" and
    "residual" [units of F], the Euclidean norm of F at `value`.

    **Derivative:** ż = -(∂F/∂z)⁻¹ ∂F/∂θ θ̇: one linear solve for each tangent, one
    transposed solve for each cotangent, at `value`; see the adjoint.

    **Errors:** `ValueError`/`TypeError` on misfit structures, before any work. At run
    time, if `throw`: the message of a `Status` (nonfinite, singular, max_steps_reached,
    diverged), or of a failed tangent or adjoint solve.
    """
    check_options("root", adjoint, max_steps, rtol, atol)
    check_jacobian(jacobian, "root")
    check_ends("root", solver, options)
    kinds = (
        optx.AbstractRootFinder,
        optx.AbstractLeastSquaresSolver,
        optx.AbstractMinimiser,
    )
    if not isinstance(solver, kinds):
        raise TypeError(
            "`root(solver=...)` must be a root finder, least-squares solver or minimiser.\n"
            f"Got {solver!r}.\nTake for example pi.Newton() or optimistix's Dogleg; for "
            "fixed-point solvers write the problem as pi.fixed_point."
        )
    return _root(
        fn, z0, params, solver, adjoint, rtol, atol, max_steps, throw, jacobian, options
    )


@eqx.filter_jit
def _root(fn, z0, params, solver, adjoint, rtol, atol, max_steps, throw, jacobian, options):
    fn, z0, params, restore = prepare("root", fn, z0, params)
    solver = with_tolerances(solver, rtol, atol, z0)
    options = {"jacobian": jacobian, **(options or {})}

    def run(z0, params, loop):
        return find_root(solver, fn, z0, params, options, max_steps, loop)

    problem = Problem(
        "root", run, fn, None, jacobian, frozenset(), max_steps, throw, solver
    )
    z, status, steps = adjoint.solve(problem, z0, params)
    return finish(problem, restore, z, params, status, steps)


def find_root(solver, fn, z0, params, options, max_steps, loop, tags=frozenset()):
    """Iterates a solver of any of the three kinds until a root."""
    how: dict[str, Any] = dict(max_steps=max_steps, options=options, tags=tags, loop=loop)
    if isinstance(solver, optx.AbstractRootFinder):
        return iterate(solver, fn, z0, params, **how)
    # Solvers for ‖F‖² also stop at minima that are no roots: go on until F is small.
    start = jnp.linalg.norm(ravel(fn(z0, params)))
    near = solver.atol + solver.rtol * jax.lax.stop_gradient(start)
    accept = lambda f: jnp.linalg.norm(ravel(f)) <= near

    def with_aux(z, params):
        f = fn(z, params)
        if isinstance(solver, optx.AbstractMinimiser):
            return 0.5 * jnp.sum(ravel(f) ** 2), f
        return f, f

    how["tags"] = frozenset()
    return iterate(solver, with_aux, z0, params, accept=accept, **how)
