"""Newton's method and its simplified form, with the Jacobian in any storage."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx

from .._tree import flatten, ravel, stop_gradient
from ..linear.jacobian import Jacobian, check_jacobian, default_solver, jacobian_operator
from .options import check_linear_solver
from .tolerance import length, scaled_size, tolerances


class NewtonState(eqx.Module):
    size: jax.Array  # of the last correction, in units of the tolerance
    rate: jax.Array  # by how much it is smaller than the one before
    result: optx.RESULTS
    factors: Any  # the Jacobian and its factors, if they are kept (`Chord`)


class _Newton(optx.AbstractRootFinder):
    """What `Newton` and `Chord` share.

    The iteration ends when the correction Δ is within tolerance, or the part of it that
    the observed contraction Θ leaves over, Θ/(1-Θ) ‖Δ‖, is (Hairer & Wanner 1996, IV.8,
    eq. 8.10). That is a bound for the error of z, whatever the units of F.
    """

    rtol: eqx.AbstractVar[Any]
    atol: eqx.AbstractVar[Any]
    linear_solver: eqx.AbstractVar[lx.AbstractLinearSolver | None]
    jacobian: eqx.AbstractVar[Jacobian]
    line_search: eqx.AbstractVar[bool]
    keeps_jacobian: eqx.AbstractClassVar[bool]
    norm: Callable = optx.rms_norm

    def __check_init__(self):
        check_jacobian(self.jacobian, type(self).__name__)
        check_linear_solver(self)

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        del f_struct, aux_struct
        v, _, along = vectors(fn, y, args)
        factors = None
        if self.keeps_jacobian:
            _, matvec, _ = jax.linearize(along, v, has_aux=True)
            operator = stored_jacobian(self, matvec, v, y, args, options, tags)
            factors = operator, linear_solver(self, operator).init(operator, {})
        infinite = jnp.asarray(jnp.inf, v.dtype)
        return NewtonState(infinite, infinite, optx.RESULTS.successful, factors)

    def step(self, fn, y, args, options, state, tags):
        v, unflatten, along = vectors(fn, y, args)
        if self.keeps_jacobian:
            f, aux = along(v)
            operator, factors = state.factors
        else:
            f, matvec, aux = jax.linearize(along, v, has_aux=True)
            operator = stored_jacobian(self, matvec, v, y, args, options, tags)
            factors = linear_solver(self, operator).init(operator, {})
        solver, factors = linear_solver(self, operator), stop_gradient(factors)
        correct = lambda f: corrected(operator, f, solver, factors)
        correction, result = correct(f)
        part = 1.0
        if self.line_search:
            part = _natural_search(lambda v: correct(along(v)[0]), v, correction)
        v = v - part * correction
        size = scaled_size(self, correction, v)
        rate = jnp.where(jnp.isinf(state.size), jnp.inf, size / state.size)
        return unflatten(v), NewtonState(size, rate, result, state.factors), aux

    def terminate(self, fn, y, args, options, state, tags):
        size, rate = state.size, state.rate
        left = jnp.where(rate < 1, size * rate / (1 - rate), jnp.inf)
        # Round-off moves z by ε cond(J): below √ε, a correction that no longer shrinks
        # is made of it.
        rtol, atol = tolerances(self, size.dtype)
        floor = jnp.finfo(size.dtype).eps ** 0.5 / jnp.maximum(rtol, atol)
        stalled = (size < floor) & (rate >= 1) & jnp.isfinite(rate)
        return (size <= 1) | (left <= 1) | stalled, state.result

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}


class Newton(_Newton):
    """Newton's method, z ← z - J⁻¹ F(z), for root finding; an optimistix solver.

    `rtol`, `atol`: of z, ε^0.6 of its precision if not given. `jacobian`, if not given to
    the problem: `pi.Dense()`, `pi.MatrixFree()`, a `SparsePattern` or a function.
    `linear_solver`: a lineax solver, by default one that suits the Jacobian.
    `line_search`: halve a correction until the next one (with the same Jacobian) would be
    smaller: the natural monotonicity test, for starts far from the root (Deuflhard 2011,
    doi:10.1007/978-3-642-23899-4, Section 3.1.1).
    """

    rtol: Any = None
    atol: Any = None
    linear_solver: lx.AbstractLinearSolver | None = None
    jacobian: Jacobian = None
    line_search: bool = eqx.field(static=True, default=False)
    keeps_jacobian: ClassVar[bool] = False


class Chord(_Newton):
    """Newton's method with the Jacobian of the first guess throughout: one factorisation,
    linear convergence. The options are those of `Newton`.

    Source: Kelley 1995, doi:10.1137/1.9781611970944, Section 5.4.1.
    """

    rtol: Any = None
    atol: Any = None
    linear_solver: lx.AbstractLinearSolver | None = None
    jacobian: Jacobian = None
    line_search: bool = eqx.field(static=True, default=False)
    keeps_jacobian: ClassVar[bool] = True


def stored_jacobian(solver, matvec, v, y, args, options, tags):
    """The Jacobian as the solver, or else the problem, wants it stored."""
    jacobian = options.get("jacobian") if solver.jacobian is None else solver.jacobian
    return jacobian_operator(jacobian, matvec, v, y, args, tags)


def linear_solver(solver, operator) -> lx.AbstractLinearSolver:
    if solver.linear_solver is not None:
        return solver.linear_solver
    return default_solver(
        operator, float(jnp.finfo(operator.in_structure().dtype).eps) ** 0.5
    )


def corrected(operator, f, solver, factors):
    """d with J d = f, and what became of the solve; d is zero if it solves nothing: then
    the Jacobian is singular (LU divides by zero or by round-off) or not finite (an
    infinite one makes a correction of zero, which is no convergence)."""
    # Of unit length, so that absolute tolerances of iterative solvers mean something.
    size = stop_gradient(jnp.max(jnp.abs(f)))
    size = jnp.where((size > 0) & jnp.isfinite(size), size, 1.0)
    unit = f / size
    solution = lx.linear_solve(operator, unit, solver, state=factors, throw=False)
    d = solution.value
    solves = length(operator.mv(d) - unit) <= 0.5 * length(unit)  # false for NaN
    finite = jnp.isfinite(length(operator.mv(unit)))
    lost = optx.RESULTS.promote(lx.RESULTS.singular)
    lost = optx.RESULTS.where(finite, lost, optx.RESULTS.nonfinite)
    result = optx.RESULTS.where(solves, optx.RESULTS.promote(solution.result), lost)
    return jnp.where(solves, size * d, 0.0), result


def vectors(fn, y, args):
    """The unknowns as a vector, the way back, and `fn` on vectors, with its aux."""
    v, unflatten = flatten(y)

    def along(v):
        f, aux = fn(unflatten(v), args)
        return ravel(f).astype(v.dtype), aux

    return v, unflatten, along


def _natural_search(next_correction, v, correction):
    """The largest part λ = 1, 1/2, … with ‖J⁻¹F(z - λΔ)‖ ≤ (1 - λ/2) ‖Δ‖; where F is not
    finite there is no such correction."""
    length = jnp.linalg.norm(correction)

    def attempt(carry):
        part = carry[0] / 2
        after, result = next_correction(v - part * correction)
        solved = result == optx.RESULTS.successful
        return part, solved & (jnp.linalg.norm(after) <= (1 - part / 2) * length)

    going = lambda carry: ~carry[1] & (carry[0] > 1e-4)
    start = (jnp.asarray(2.0, v.dtype), jnp.array(False))
    part, _ = jax.lax.while_loop(going, attempt, start)
    return jax.lax.stop_gradient(part)
