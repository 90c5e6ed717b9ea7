"""Derivatives for a solver that is already there: jaxopt's decorators.

    @pi.custom_root(optimality)              # optimality(z, *args) = 0 at the solution
    def solver(init, *args): ...             # any code: JAX, NumPy, SciPy

Ported code changes its import only, and gains forward mode, Hessians, checked linear
solves, and derivatives in what `optimality` closes over.
"""

import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import lineax as lx

from ._tree import arrays, flatten, ravel, stop_gradient
from .engine.failure import fail_unless_zero
from .implicit import Linearisation, attach


def custom_root(
    optimality_fun: Callable,
    has_aux: bool = False,
    solve: Callable | lx.AbstractLinearSolver | None = None,
    reference_signature: Callable | inspect.Signature | None = None,
    *,
    tol: float | None = None,
) -> Callable[[Callable], Callable]:
    r"""Decorator: `solver(init, *args)` returns z with `optimality_fun(z, *args) = 0`.

    **Arguments:**

    - `optimality_fun`: `optimality_fun(z, *args)`, a pytree of as many numbers as z.
    - `has_aux`: the solver returns `(z, aux)`; aux has no derivative.
    - `solve`: for the linear systems of the derivative: a lineax solver, or jaxopt's
      `solve(matvec, b)` on pytrees like z. By default LU up to 500 unknowns, else GMRES.
    - `reference_signature`: a function (or signature) with the names of the arguments, if
      `optimality_fun` has not got them.
    - `tol`: if given, a z with ‖optimality_fun(z, …)‖ > `tol` raises: the theorem holds at
      a root only.

    **Returns:** the solver, differentiable in `args` and keyword arguments (not in
    `init`, whose derivative is zero), both modes, any order. The solver itself is never
    traced for derivatives, and outside `jit` it gets concrete arrays.

    **Derivative:** of `optimality_fun(z, *args) = 0`; see `pyimplicit.implicit`.

    **Errors:** `TypeError` if the arguments cannot be matched with `optimality_fun`'s; a
    linear solve that fails raises at run time.

    ??? cite "Reference"
        Blondel et al., *Efficient and modular implicit differentiation* (2022).
        arXiv:2105.15183
    """
    if (
        solve is not None
        and not callable(solve)
        and not isinstance(solve, lx.AbstractLinearSolver)
    ):
        raise TypeError(
            "`custom_root(solve=...)` must be solve(matvec, b) or a lineax solver.\n"
            f"Got {solve!r}.\nLeave it out for the default."
        )
    reference = _signature(reference_signature or optimality_fun)

    def decorator(solver: Callable) -> Callable:
        own = inspect.signature(solver)

        @functools.wraps(solver)
        def solution(*args, **kwargs):
            call = own.bind(*args, **kwargs)
            call.apply_defaults()
            out = solver(*stop_gradient(call.args), **stop_gradient(call.kwargs))
            z, aux = out if has_aux else (out, None)
            z, theta = stop_gradient(arrays(z)), _matched(reference, call, z)
            residual = lambda z, theta: optimality_fun(z, *theta[0], **theta[1])
            z = _checked(z, residual, theta, tol)
            z = attach(z, residual, theta, Linearisation(_lineax(solve, z)))
            return (z, stop_gradient(aux)) if has_aux else z

        return solution

    return decorator


def custom_fixed_point(
    fixed_point_fun: Callable,
    has_aux: bool = False,
    solve: Callable | lx.AbstractLinearSolver | None = None,
    reference_signature: Callable | inspect.Signature | None = None,
    *,
    tol: float | None = None,
) -> Callable[[Callable], Callable]:
    """Decorator: `solver(init, *args)` returns z with `fixed_point_fun(z, *args) = z`.

    See `custom_root`, whose optimality function is then T(z) - z.
    """

    def optimality_fun(z, *args, **kwargs):
        out = fixed_point_fun(z, *args, **kwargs)
        return jax.tree.map(jnp.subtract, out, z)

    reference = reference_signature or fixed_point_fun
    return custom_root(optimality_fun, has_aux, solve, reference, tol=tol)


def _signature(of) -> inspect.Signature:
    if isinstance(of, inspect.Signature):
        return of
    return inspect.signature(getattr(of, "subfun", of))


def _matched(reference: inspect.Signature, call: inspect.BoundArguments, z):
    """The arguments after the first, as `optimality_fun` takes them."""
    try:
        bound = reference.bind(z, *call.args[1:], **call.kwargs)
    except TypeError as err:
        raise TypeError(
            f"`custom_root` must match the solver's arguments with {reference}.\n"
            f"Got {call.signature}: {err}.\n"
            "Give both the same names and order, or pass reference_signature=."
        ) from None
    return arrays((bound.args[1:], bound.kwargs))


def _checked(z, residual, theta, tol):
    if tol is None:
        return z
    size = jnp.linalg.norm(ravel(stop_gradient(residual(z, stop_gradient(theta)))))
    message = (
        "pyimplicit.custom_root: the solver's result is no root: the optimality function "
        f"is larger there than tol={tol}: (a) tighten the solver; (b) solver and "
        "optimality function disagree"
    )
    return fail_unless_zero(z, ~(size <= tol), ("", message))


def _lineax(solve, z) -> lx.AbstractLinearSolver | None:
    if solve is None or isinstance(solve, lx.AbstractLinearSolver):
        return solve
    return _Given(solve, flatten(z)[1])


class _Given(lx.AbstractLinearSolver):
    """jaxopt's `solve(matvec, b)` on pytrees, as a lineax solver on vectors."""

    function: Callable
    unflatten: Callable

    def init(self, operator, options):
        return operator

    def compute(self, state, vector, options):
        matvec = lambda tree: self.unflatten(state.mv(ravel(tree)))
        x = ravel(self.function(matvec, self.unflatten(vector)))
        return x, lx.RESULTS.successful, {}

    def transpose(self, state, options):
        return state.transpose(), options

    def conj(self, state, options):
        return lx.conj(state), options

    def assume_full_rank(self):
        return True
