"""Sparse direct solves whose factorisation is shared by everything derived from them.

With A x = b the derivative is A ẋ = ḃ - Ȧ x, one solve with the same matrix; its
transpose is Aᵀ λ = x̄, then b̄ = λ and Ā = -λ xᵀ on the stored places. So the solve is a
`jax.lax.custom_linear_solve`: JAX differentiates the *product* A x (which is cheap and
linear) and asks for one more solve or transposed solve. Each of these is a pure call of
the engine, which finds the factor of the same values again.
"""

from typing import Literal, overload

import jax
import jax.numpy as jnp

from .. import engine
from .._status import Solution
from ..engine.call import call
from .pattern import SparsePattern


@overload
def sparse_solve(
    pattern, values, b, *, transpose: bool = False, throw: Literal[True] = True
) -> jax.Array: ...


@overload
def sparse_solve(
    pattern, values, b, *, transpose: bool = False, throw: Literal[False]
) -> Solution: ...


def sparse_solve(
    pattern: SparsePattern, values, b, *, transpose: bool = False, throw: bool = True
) -> jax.Array | Solution:
    """Solves A x = b (or Aᵀ x = b) for a sparse A by a direct factorisation.

    `pattern`: a square `SparsePattern`; static. `values`: its entries, `(nnz,)`.
    `b`: `(n,)`, or `(n, k)` for k right-hand sides, which are solved in one call. Real
    or complex (complex not for "spd" and
    "quasidefinite"); the work is done in double precision, the result
    has the common dtype of `values` and `b`. Under `vmap` the whole batch is one call,
    with one factorisation for each distinct matrix.

    **Returns** `x` of the shape of `b`. With `throw=False` a `Solution` instead: `value`
    (NaN where a solve failed), `status`, `stats["residual"]` (normwise backward error),
    one for each right-hand side.

    **Derivative** in `values` and `b`, any order, both modes: one more solve with the
    same factor for each tangent or cotangent. The derivative's own solves are held to the
    same checks.

    **Errors** `ValueError`/`TypeError` on misfit shapes and dtypes, before any work. At
    run time, if `throw`: a JAX error whose text is the `Status` message (singular, not
    positive definite, non-finite, inaccurate, not symmetric).

    Methods: CHOLMOD and UMFPACK in Julia (Chen et al. 2008, doi:10.1145/1391989.1391995;
    Davis 2004, doi:10.1145/992200.992206), SuperLU on the host (Demmel et al. 1999,
    doi:10.1137/S0895479895291765).
    """
    values, b = _check(pattern, values, b)
    solve = lambda rhs: _solve(pattern, values, rhs, transpose, throw)
    if b.ndim == 2:
        x, (status, residual) = jax.vmap(solve, 1, (1, 0))(b)
    else:
        x, (status, residual) = solve(b)
    return x if throw else Solution(x, status, {"residual": residual})


def _solve(pattern: SparsePattern, values, b, transpose: bool, throw: bool):
    def solver(flip: bool):
        def solve(_, rhs):
            x, *stats = raw_solve(pattern, values, rhs, transpose != flip, throw)
            return x, tuple(stats)

        return solve

    return jax.lax.custom_linear_solve(
        lambda x: pattern.matvec(values, x, transpose),
        b,
        solver(False),
        solver(True),
        has_aux=True,
    )


def raw_solve(pattern: SparsePattern, values, b, transpose: bool, throw: bool):
    """The engine's operation, without a derivative: `(x, status, residual)`."""
    pattern.register()
    real = jnp.finfo(b.dtype).dtype
    scalar = lambda dtype: jax.ShapeDtypeStruct((), dtype)
    return call(
        engine.target("sparse_solve", b.dtype),
        values,
        b,
        out=[jax.ShapeDtypeStruct(b.shape, b.dtype), scalar("int32"), scalar(real)],
        pattern=pattern.key,
        transpose=int(transpose),
        throw=int(throw),
    )


def _check(pattern, values, b):
    if not isinstance(pattern, SparsePattern):
        raise TypeError(
            "`sparse_solve(pattern, ...)` must be a SparsePattern.\n"
            f"Got {type(pattern).__name__}.\n"
            "Build one with pi.SparsePattern(rows, cols, shape)."
        )
    n, m = pattern.shape
    if n != m:
        raise ValueError(
            f"`sparse_solve` needs a square matrix.\nGot shape {pattern.shape}.\n"
            "For least squares use lineax with pi.SparseOperator."
        )
    values, b = jnp.asarray(values), jnp.asarray(b)
    if values.shape != (pattern.nnz,):
        raise ValueError(
            f"`sparse_solve(values=...)` must have shape ({pattern.nnz},), one value for "
            f"each stored entry.\nGot {values.shape}.\n"
            "For a batch of matrices use jax.vmap."
        )
    if b.ndim not in (1, 2) or b.shape[0] != n:
        raise ValueError(
            f"`sparse_solve(b=...)` must have shape ({n},) or ({n}, k).\n"
            f"Got {b.shape}.\nFor a batch of right-hand sides use columns or jax.vmap."
        )
    dtype = jnp.result_type(values, b)
    if not jnp.issubdtype(dtype, jnp.inexact):
        dtype = jnp.result_type(float)
    if dtype not in map(jnp.dtype, ("float32", "float64", "complex64", "complex128")):
        raise TypeError(
            "`sparse_solve` takes single and double precision, real and complex.\n"
            f"Got {dtype}.\nConvert the values and b, e.g. to float32."
        )
    real = pattern.structure in ("spd", "quasidefinite")
    if real and jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            "`sparse_solve` takes real values for "
            f"structure={pattern.structure!r}.\n"
            f"Got {dtype}.\nUse structure='symmetric' (A = Aᵀ) or 'general'."
        )
    return values.astype(dtype), b.astype(dtype)
