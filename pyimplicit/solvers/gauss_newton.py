"""The Gauss–Newton method for nonlinear least squares."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx

from .._tree import flatten, ravel, stop_gradient
from ..linear.jacobian import DENSE_LIMIT
from .options import check_linear_solver
from .tolerance import scaled_size, tolerances


class GaussNewtonState(eqx.Module):
    size: jax.Array  # of the last correction, in units of the tolerance
    rate: jax.Array  # by how much it is smaller than the one before
    exact: jax.Array  # the residual is orthogonal to the Jacobian, up to round-off
    result: optx.RESULTS


class GaussNewton(optx.AbstractLeastSquaresSolver):
    """z ← z - J⁺ r, with J⁺ r the least-squares solution of J d = r: an optimistix solver.

    `linear_solver`: a lineax solver for that: `lx.QR()`, `lx.SVD()` (for rank-deficient J),
    `lx.Normal(lx.Cholesky())`, or by products with J alone `lx.LSMR(rtol, atol)`,
    `lx.Normal(lx.CG(rtol, atol))`. By default QR, and LSMR where rows and columns both
    exceed 500. `rtol`, `atol`: as `Newton`'s. It converges from near a solution with small
    residuals or little curvature; elsewhere take `LevenbergMarquardt`.

    Source: Björck 1996, doi:10.1137/1.9781611971484, Section 9.2.
    """

    rtol: Any = None
    atol: Any = None
    linear_solver: lx.AbstractLinearSolver | None = None
    norm: Callable = optx.rms_norm

    def __check_init__(self):
        check_linear_solver(self)

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        infinite = jnp.asarray(jnp.inf, ravel(y).dtype)
        no = jnp.array(False)
        return GaussNewtonState(infinite, infinite, no, optx.RESULTS.successful)

    def step(self, fn, y, args, options, state, tags):
        v, unflatten = flatten(y)
        r, jacobian, aux = linearised(fn, unflatten, v, args, options)
        solver = self.linear_solver
        if solver is None:
            small = min(r.size, v.size) <= DENSE_LIMIT
            tol = float(jnp.finfo(v.dtype).eps) ** (2 / 3)
            solver = lx.QR() if small else lx.LSMR(tol, tol, max_steps=10 * v.size)
        if _needs_products(solver):
            struct = jax.ShapeDtypeStruct(v.shape, v.dtype)
            operator = lx.FunctionLinearOperator(jacobian.mv, struct)
            terms = jacobian.mv(v)
        else:
            operator = lx.MatrixLinearOperator(jacobian.matrix())
            terms = jnp.abs(operator.matrix) @ jnp.abs(v)
        # Of unit length, so that absolute tolerances of iterative solvers mean something.
        unit = jnp.max(jnp.abs(stop_gradient(r)))
        unit = jnp.where((unit > 0) & jnp.isfinite(unit), unit, 1.0)
        solution = lx.linear_solve(operator, r / unit, solver, throw=False)
        # QR of a rank-deficient matrix divides by zero.
        broken = ~jnp.all(jnp.isfinite(solution.value)) & jnp.all(jnp.isfinite(r))
        d = jnp.where(broken, 0.0, unit * solution.value)
        result = optx.RESULTS.promote(solution.result)
        result = optx.RESULTS.where(
            broken, optx.RESULTS.promote(lx.RESULTS.singular), result
        )
        v = v - d
        size = scaled_size(self, d, v)
        rate = jnp.where(jnp.isinf(state.size), jnp.inf, size / state.size)
        gain, r_, terms = stop_gradient((operator.mv(d), r, terms))
        state = GaussNewtonState(
            size,
            rate,
            euclid(gain) <= rounding_error(r_, terms),
            result,
        )
        return unflatten(v), state, aux

    def terminate(self, fn, y, args, options, state, tags):
        left = jnp.where(
            state.rate < 1, state.size * state.rate / (1 - state.rate), jnp.inf
        )
        # Round-off moves z by ε cond(J): below √ε, a correction that no longer shrinks
        # is made of it.
        rtol, atol = tolerances(self, state.size.dtype)
        floor = jnp.finfo(state.size.dtype).eps ** 0.5 / jnp.maximum(rtol, atol)
        stalled = (state.size < floor) & (state.rate >= 1) & jnp.isfinite(state.rate)
        done = (state.size <= 1) | (left <= 1) | stalled | state.exact
        return done, state.result

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}


def _needs_products(solver) -> bool:
    if isinstance(solver, lx.Normal):
        return _needs_products(solver.inner_solver)
    return isinstance(solver, lx.LSMR | lx.CG)


class _Jacobian:
    """The Jacobian `(m, n)` of residuals: its products, and its matrix by the fewer of n
    products with unit vectors and m transposed ones."""

    def __init__(self, mv, shape, like, transposed=None):
        self.mv, self.shape, self.like, self.transposed = mv, shape, like, transposed

    def matrix(self):
        m, n = self.shape
        eye = lambda k: jnp.eye(k, dtype=self.like.dtype)
        if self.transposed is None and n <= m:
            return jax.vmap(self.mv, in_axes=1, out_axes=1)(eye(n))
        transposed = self.transposed or jax.linear_transpose(self.mv, self.like)
        return jax.vmap(lambda w: transposed(w)[0])(eye(m))


def linearised(fn, unflatten, v, args, options):
    """The residuals at the vector `v`, their Jacobian, and the auxiliary output.

    `options["jac"]`: "bwd" for functions without forward derivatives, as in optimistix.
    """

    def along(v):
        r, aux = fn(unflatten(v), args)
        return ravel(r).astype(v.dtype), aux

    jac = options.get("jac", "fwd")
    if jac == "bwd":
        r, pullback, aux = jax.vjp(along, v, has_aux=True)
        mv = lambda d: jax.linear_transpose(lambda w: pullback(w)[0], r)(d)[0]
        return r, _Jacobian(mv, (r.size, v.size), v, pullback), aux
    if jac != "fwd":
        raise ValueError(
            "`options['jac']` must be 'fwd' or 'bwd'.\n"
            f"Got {jac!r}.\nLeave it out for forward derivatives."
        )
    r, mv, aux = jax.linearize(along, v, has_aux=True)
    return r, _Jacobian(mv, (r.size, v.size), v), aux


def rounding_error(r, terms):
    """What rounding may make of ‖r‖, the residuals, summed up from `terms` ≈ |J||z|."""
    return 10 * float(jnp.finfo(r.dtype).eps) * (euclid(r) + euclid(terms))


def euclid(v):
    return jnp.sqrt(jnp.sum(v * v))
