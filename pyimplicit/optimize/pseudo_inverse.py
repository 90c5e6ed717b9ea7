"""Linear solves that judge themselves: by LU, or by the pseudo-inverse where that fails."""

from typing import Any

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import lineax as lx

from ..linear.operator import SparseDirect


def close(dtype) -> float:
    """A relative residual that counts as solved."""
    return float(jnp.finfo(dtype).eps) ** 0.6


def pseudo_inverse(M, b):
    """The vector of least norm among those with the least ‖M v - b‖, and whether it is
    one: `(v, ok)`."""
    finite = jnp.all(jnp.isfinite(M))
    M = jnp.where(finite, M, 0.0)
    U, s, Vt = jnp.linalg.svd(M)
    kept = s > 10 * s.size * jnp.finfo(b.dtype).eps * s[0]
    inverse = jnp.where(kept, 1 / jnp.where(kept, s, 1.0), 0.0)
    solve = lambda b: Vt.T @ (inverse * (U.T @ b))
    within = U @ jnp.where(kept, U.T @ b, 0.0)
    v = solve(b)
    v = v + solve(within - M @ v)
    error = jnp.linalg.norm(M @ v - within) / jnp.linalg.norm(b)
    return v, finite & (error <= close(b.dtype))


class LeastNorm(lx.AbstractLinearSolver):
    """LU with a step of refinement; where that is not accurate, the pseudo-inverse."""

    def init(self, operator, options):
        del options
        M = operator.as_matrix()
        return M, jax.scipy.linalg.lu_factor(M), False

    def compute(self, state, vector, options):
        del options
        M, factor, transposed = state
        M = M.T if transposed else M
        solve = lambda b: jax.scipy.linalg.lu_solve(factor, b, trans=int(transposed))
        v = solve(vector)
        v = v + solve(vector - M @ v)
        norm = jnp.linalg.norm
        bad = ~(norm(M @ v - vector) <= close(v.dtype) * norm(vector))
        # Singular but consistent: LU's answer need not be the one of least norm.
        bad = bad | ~(norm(v) <= 1e10 * norm(vector) / jnp.max(jnp.abs(M)))
        pseudo = lambda: pseudo_inverse(M, vector)
        w, ok = jax.lax.cond(eqxi.unvmap_any(bad), pseudo, lambda: (v, ~bad))
        result = lx.RESULTS.where(~bad | ok, lx.RESULTS.successful, lx.RESULTS.singular)
        return jnp.where(bad, w, v), result, {}

    def transpose(self, state, options):
        M, factor, transposed = state
        return (M, factor, not transposed), options

    def conj(self, state, options):
        return state, options

    def assume_full_rank(self):
        return False


class SparseLU(lx.AbstractLinearSolver):
    """`SparseDirect` that asks for a small residual itself."""

    def init(self, operator, options):
        return SparseDirect().init(operator, options)

    def compute(self, state, vector, options):
        v, result, extra = SparseDirect().compute(state, vector, options)
        norm = jnp.linalg.norm
        ok = norm(state.mv(v) - vector) <= close(v.dtype) ** 0.75 * norm(vector)
        return v, lx.RESULTS.where(ok, result, lx.RESULTS.singular), extra

    def transpose(self, state, options: dict[str, Any]):
        return SparseDirect().transpose(state, options)

    def conj(self, state, options):
        return SparseDirect().conj(state, options)

    def assume_full_rank(self):
        return True
