r"""The one derivative rule: the implicit function theorem.

Let z solve F(z, θ) = 0. Then ∂F/∂z ż + ∂F/∂θ θ̇ = 0, so

    ż = -(∂F/∂z)⁻¹ ∂F/∂θ θ̇                      forwards: one solve for each tangent
    θ̄ = -(∂F/∂θ)ᵀ λ  with  (∂F/∂z)ᵀ λ = z̄       backwards: one transposed solve

`attach` states this for a z that comes from anywhere (a solver, a table, Julia): it is
the identity, with the first line as its JVP. The linear solve in it is transposable
(`jax.lax.custom_linear_solve`), so reverse mode is JAX's transpose of the rule, not a
rule of its own; and the rule applies `attach` again to get its z, so that it has
derivatives itself: Hessians, in any order of the modes, follow.

Everything that F closes over counts as θ: closure conversion finds it.

Griewank, Walther, *Evaluating Derivatives* (2008), Chapter 15. doi:10.1137/1.9780898717761
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from ._tree import arrays, flatten, ravel, stop_gradient
from .linear.checked import (
    FAILED,
    LinearSolve,
    accepted_residual,
    checked_solve,
    where_valid,
)
from .linear.jacobian import Jacobian, default_solver, jacobian_operator


class Linearisation(eqx.Module):
    """How systems with ∂F/∂z are solved in the derivative of a layer.

    `solver`: a lineax solver, or None for a choice by size and structure.
    `rtol`: of the default iterative solvers. `preconditioner`: a lineax operator close to
    the inverse, or a function (z, params) -> operator. `guess`: shaped like z.
    """

    solver: lx.AbstractLinearSolver | None = None
    jacobian: Jacobian = None
    rtol: float | None = None
    accept: float | None = None
    preconditioner: Any = None
    guess: Any = None
    tags: frozenset = eqx.field(static=True, default=frozenset())
    throw: bool = eqx.field(static=True, default=True)


def attach(
    z, residual: Callable, params, linearisation: Linearisation | None = None, valid=True
):
    """Returns `z`, differentiable as the solution of `residual(z, params) = 0`.

    **Arguments:**

    - `z`: a pytree of floating arrays, n numbers in all; what derivatives it has are
      dropped.
    - `residual`: `residual(z, params)`, a pytree of n numbers in all; float arrays it
      closes over are differentiated like `params`.
    - `params`: any pytree.
    - `linearisation`: how the linear systems are solved.
    - `valid`: a boolean scalar; where false the derivatives are NaN.

    **Returns:** `z`.

    **Derivative:** the implicit function theorem, both modes, any order. Each linear solve
    is checked: one that failed raises or gives NaN (`linearisation.throw`).
    """
    z, params = stop_gradient(arrays(z)), arrays(params)
    residual = eqx.filter_closure_convert(residual, z, params)
    return _attach(z, residual, params, linearisation or Linearisation(), valid)


@eqx.filter_custom_jvp
def _attach(z, residual, params, linearisation, valid):
    del residual, params, linearisation, valid
    return z


@_attach.def_jvp
def _attach_jvp(primals, tangents):
    *point, linearisation, valid = primals
    z, residual, params = arrays(point)  # jacrev(f)(1.0) makes a Python number of a primal
    _, t_residual, t_params, *_ = tangents
    # Not the bare z: this one has derivatives.
    z = _attach(z, residual, params, linearisation, valid)
    theta, fixed, t_theta = moving_parts((residual, params), (t_residual, t_params))

    def at(theta):  # F(z, ·)
        residual, params = eqx.combine(theta, fixed)
        return ravel(residual(z, params))

    _, t_F = jax.jvp(at, (theta,), (t_theta,))
    y, unflatten = flatten(z)
    along = lambda y: ravel(residual(unflatten(y), params)).astype(y.dtype)
    _, matvec = jax.linearize(along, y)
    # Stopped out here: JAX must not see tangents in the solver that the product lacks.
    z_, params_, given = stop_gradient((z, params, linearisation))
    operator = lambda: jacobian_operator(given.jacobian, matvec, y, z_, params_, given.tags)
    how = lambda A: _plan(given, A, y.dtype, z_, params_)
    t_y = checked_solve(matvec, operator, -t_F.astype(y.dtype), how, valid)
    # `unflatten` puts constants back; only the unknowns have tangents.
    return z, eqx.filter(unflatten(t_y), eqx.is_inexact_array)


def borrow(z, w, valid: Any = True):
    """Returns `z` with the derivatives of `w`, a pytree like it; NaN where not `valid`."""
    return _borrow(stop_gradient(z), w, valid)


@eqx.filter_custom_jvp
def _borrow(z, w, valid):
    del w, valid
    return z


@_borrow.def_jvp
def _borrow_jvp(primals, tangents):
    z, w, valid = primals
    _, t_w, _ = tangents
    return _borrow(z, w, valid), jax.tree.map(lambda t: where_valid(t, valid), t_w)


def moving_parts(primals, tangents):
    """The leaves that have a tangent, the others, and the tangents."""
    still = jax.tree.map(lambda t: t is None, tangents, is_leaf=lambda t: t is None)
    fixed, moving = eqx.partition(primals, still, is_leaf=lambda a: a is None)
    return moving, fixed, tangents


def _plan(linearisation: Linearisation, A, dtype, z, params) -> LinearSolve:
    rtol = linearisation.rtol
    rtol = float(jnp.finfo(dtype).eps) ** (2 / 3) if rtol is None else rtol
    accept = linearisation.accept
    if accept is None:
        accept = accepted_residual(dtype)
        if linearisation.rtol is not None:
            accept = jnp.maximum(accept, 10 * rtol)
    options = {}
    if (M := linearisation.preconditioner) is not None:
        is_operator = isinstance(M, lx.AbstractLinearOperator)
        options["preconditioner"] = M if is_operator else M(z, params)
    if linearisation.guess is not None:
        options["y0"] = ravel(linearisation.guess).astype(dtype)
    solver = linearisation.solver
    solver = default_solver(A, rtol) if solver is None else solver
    message = "the derivative: " + FAILED.format(
        what=" (tangent or adjoint)", remedy="Implicit(linear_solver=lx.LU())"
    )
    return LinearSolve(solver, options, accept, linearisation.throw, message)
