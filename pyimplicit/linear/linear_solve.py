"""Linear systems as layers."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from .._tree import arrays, flatten, ravel
from .checked import FAILED, LinearSolve, accepted_residual, checked_solve
from .jacobian import DENSE_LIMIT, Dense, default_solver, jacobian_operator


def linear_solve(
    A: Any,
    b: Any,
    *,
    solver: lx.AbstractLinearSolver | None = None,
    throw: bool = True,
):
    """Solves A x = b for a square A.

    **Arguments:**

    - `A`: an array `(n, n)`, a `SparseOperator`, any lineax operator, or the product
      x -> A x, a linear function on pytrees like `b` (what it closes over is
      differentiated).
    - `b`: like x: `(n,)`; for matrices also `(n, k)`, k right-hand sides.
    - `solver`: a lineax solver; by default LU, sparse LU, or (a function of more than 500
      unknowns) GMRES.
    - `throw`: raise where the solve fails; False: NaN.

    **Returns:** x.

    **Derivative:** A ẋ = ḃ - Ȧ x, any order, both modes: one more solve for each tangent
    or cotangent. Every one of them is checked by its residual.

    **Errors:** `ValueError`/`TypeError` on misfit shapes. At run time, if `throw`: an error
    that names causes (singular, not converged, non-finite).
    """
    A, b = arrays(A), arrays(b)
    if eqx.is_array(A):
        return _by_matrix(A, b, solver, throw)
    if isinstance(A, lx.AbstractLinearOperator):
        return _by_operator(A, b, solver, throw)
    if callable(A):
        return _by_product(A, b, solver, throw)
    raise TypeError(
        "`linear_solve(A, b)` takes an array, a lineax operator or a function.\n"
        f"Got {type(A).__name__}.\nFor a sparse matrix pass pi.SparseOperator(pattern, "
        "values)."
    )


def _by_matrix(A, b, solver, throw):
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(
            f"`linear_solve(A, b)` needs a square matrix.\nGot shape {A.shape}.\n"
            "For a batch of matrices use jax.vmap; for least squares lineax."
        )
    dtype = jnp.result_type(A, b, jnp.float32)
    operator = lx.MatrixLinearOperator(A.astype(dtype))
    return _by_operator(operator, b.astype(dtype), solver, throw)


def _by_operator(A, b, solver, throw):
    n, m = A.out_size(), A.in_size()
    if n != m:
        raise ValueError(
            f"`linear_solve(A, b)` needs a square operator.\nGot {n} x {m}.\n"
            "For least squares use lineax."
        )
    if eqx.is_array(b) and b.ndim == 2 and b.shape[0] == n:
        return jax.vmap(lambda b: _by_operator(A, b, solver, throw), 1, 1)(b)
    if not eqx.is_array(b) or b.shape != (n,):
        raise ValueError(
            f"`linear_solve(A, b)` needs b of shape ({n},) or ({n}, k).\n"
            f"Got {jax.tree.map(jnp.shape, b)}.\nFor a batch use columns or jax.vmap."
        )
    how = lambda A: _plan(A, b.dtype, solver, throw)
    return checked_solve(A.mv, lambda: A, b, how)


def _by_product(product: Callable, b, solver, throw):
    y, unflatten = flatten(b)
    if y.size == 0:
        raise ValueError(
            "`linear_solve(A, b)` needs floating-point numbers in b.\n"
            f"Got {b}.\nConvert integers with jnp.asarray(b, float)."
        )
    matvec = lambda v: ravel(product(unflatten(v))).astype(y.dtype)
    out = jax.eval_shape(matvec, y)
    if out.shape != y.shape:
        raise ValueError(
            "`linear_solve(A, b)` needs a function whose result looks like b.\n"
            f"Got {out.shape[0]} real numbers for {y.size}.\nFor least squares use lineax."
        )
    storage = Dense() if y.size <= DENSE_LIMIT and solver is None else None
    build = lambda: jacobian_operator(storage, matvec, y, b, None)
    if solver is not None:
        struct = jax.ShapeDtypeStruct(y.shape, y.dtype)
        build = lambda: lx.FunctionLinearOperator(matvec, struct)
    how = lambda A: _plan(A, y.dtype, solver, throw)
    return unflatten(checked_solve(matvec, build, y, how))


def _plan(A, dtype, solver, throw) -> LinearSolve:
    rtol = float(jnp.finfo(dtype).eps) ** (2 / 3)
    solver = default_solver(A, rtol) if solver is None else solver
    message = "pyimplicit.linear_solve: " + FAILED.format(what="", remedy="lx.LU()")
    return LinearSolve(solver, {}, accepted_residual(dtype), throw, message)
