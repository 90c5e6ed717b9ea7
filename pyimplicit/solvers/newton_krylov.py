"""Newton's method with inexact steps by GMRES: products with the Jacobian only."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx

from .._tree import stop_gradient
from ..implicit import Linearisation, attach
from ..linear.gmres import GMRES
from ..linear.jacobian import MatrixFree
from .newton import vectors
from .options import check_count
from .tolerance import length, scaled_size, tolerances


GAMMA, ALPHA = 0.9, (1 + 5**0.5) / 2  # of the forcing terms; 0.1 below is theirs too
LEAST_DECREASE, LEAST_PART = 1e-4, 1e-4


class NewtonKrylovState(eqx.Module):
    size: jax.Array  # of the last correction, in units of the tolerance
    residual: jax.Array  # ‖F‖ where it was computed
    forcing: jax.Array  # η, of that correction
    near: jax.Array  # it was within tolerance
    done: jax.Array
    result: optx.RESULTS


class NewtonKrylov(optx.AbstractRootFinder):
    r"""Inexact Newton method, z ← z - λ d with ‖F - J d‖ ≤ η ‖F‖; an optimistix solver.

    d is found by GMRES from products J v (one linearisation of F a step), never a matrix:
    for many unknowns. η follows how fast ‖F‖ falls, η = 0.9 (‖F‖/‖F₋‖)^1.62: early steps
    are cheap, late ones superlinear. λ is 1 or what a backtracking line search for ‖F‖
    makes of it.

    **Arguments:**

    - `rtol`, `atol`: of z, ε^0.6 of its precision if not given. It ends as `Newton` does,
      with a correction for which η was ε^(1/4): one that is small because it is inexact
      does not count.
    - `preconditioner`: preconditioner(z, params), a lineax operator close to J⁻¹ on raveled
      vectors. It is applied from the right, so that ‖F - J d‖ keeps its meaning.
    - `forcing`: the first η, and 0.9 the largest.
    - `restart`, `max_products`: of GMRES; it keeps `restart` + 1 vectors. If it does not
      reach η, what it found is taken as long as it makes ‖F - J d‖ smaller.

    *Derivative* of a step (for `Unroll`): that of an exact correction.

    ??? cite "Reference"
        Forcing terms: Eisenstat, Walker, *Choosing the forcing terms in an inexact Newton
        method* (1996), Choice 2. doi:10.1137/0917003. Line search: Eisenstat, Walker,
        *Globally convergent inexact Newton methods* (1994), doi:10.1137/0804022; Pernice,
        Walker 1998, doi:10.1137/S1064827596303843, Section 2.
    """

    rtol: Any = None
    atol: Any = None
    preconditioner: Callable[..., Any] | None = None
    forcing: Any = 0.5
    restart: int = eqx.field(static=True, default=50)
    max_products: int = eqx.field(static=True, default=1000)
    norm: Callable = optx.rms_norm

    def __check_init__(self):
        check_count(self, "restart")
        check_count(self, "max_products")
        if self.preconditioner is not None and not callable(self.preconditioner):
            raise TypeError(
                "`NewtonKrylov(preconditioner=...)` must be a function.\n"
                f"Got {self.preconditioner!r}.\nIt is called as preconditioner(z, params) "
                "and returns a lineax operator."
            )
        if isinstance(self.forcing, int | float) and not 0 < self.forcing < 1:
            raise ValueError(
                "`NewtonKrylov(forcing=...)` must lie between 0 and 1.\n"
                f"Got {self.forcing}.\nThe default is 0.5."
            )

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        v, *_ = vectors(fn, y, args)
        infinite, no = jnp.asarray(jnp.inf, v.dtype), jnp.array(False)
        forcing = jnp.asarray(self.forcing, v.dtype)
        return NewtonKrylovState(
            infinite, infinite, forcing, no, no, optx.RESULTS.successful
        )

    def step(self, fn, y, args, options, state, tags):
        v, unflatten, along = vectors(fn, y, args)
        F = lambda v: along(v)[0]
        f, matvec, aux = jax.linearize(along, v, has_aux=True)
        size, tight = length(f), float(jnp.finfo(v.dtype).eps) ** 0.25
        eta = _forcing(state, size, tight)
        M = None
        if self.preconditioner is not None:
            M = self.preconditioner(unflatten(stop_gradient(v)), stop_gradient(args))
        d = self._correction(F, v, f, matvec, eta, M)

        product = stop_gradient(matvec(d))
        # What GMRES reached, if not η.
        left = jnp.where(size > 0, length(f - product) / size, 0.0)
        slope = -2 * jnp.sum(stop_gradient(f) * product)
        part, fell = _backtrack(lambda part: length(F(v - part * d)), size, slope, left)
        error = scaled_size(self, d, v)
        rate = jnp.where(jnp.isinf(state.size), jnp.inf, error / state.size)
        after = jnp.where(rate < 1, error * rate / (1 - rate), jnp.inf)
        near = (error <= 1) | (after <= 1)
        # Below √ε, a correction that helps no more is made of round-off.
        rtol, atol = tolerances(self, v.dtype)
        floor = float(jnp.finfo(v.dtype).eps) ** 0.5 / jnp.maximum(rtol, atol)
        stalled = (error < floor) & (~fell | (rate >= 1)) & jnp.isfinite(rate)
        done = (near | stalled) & (left <= 2 * tight)

        result = optx.RESULTS.successful
        for failed, name in (
            (~fell & ~done, optx.RESULTS.nonlinear_divergence),
            (left > 0.999, optx.RESULTS.promote(lx.RESULTS.stagnation)),
            (~jnp.isfinite(size + left), optx.RESULTS.nonfinite),
        ):
            result = optx.RESULTS.where(failed, name, result)
        state = NewtonKrylovState(error, size, eta, near, done, result)
        part = jnp.where(fell, part, jnp.where(done, 1.0, 0.0))
        return unflatten(v - part * d), state, aux

    def _correction(self, F, v, f, matvec, eta, M):
        """d with ‖f - J d‖ ≤ η ‖f‖, with the derivatives of J⁻¹f."""
        operator = lx.FunctionLinearOperator(matvec, jax.ShapeDtypeStruct(v.shape, v.dtype))
        options = {} if M is None else {"preconditioner": M}
        gmres = lambda rtol: GMRES(rtol, 0.0, self.restart, self.max_products)
        d, *_ = gmres(eta).compute(stop_gradient(operator), stop_gradient(f), options)

        def defect(d, v):
            f, product = jax.jvp(F, (v,), (d,))
            return product - f

        exact = gmres(float(jnp.finfo(v.dtype).eps) ** (2 / 3))
        how = Linearisation(exact, MatrixFree(), preconditioner=M, throw=False)
        return attach(d, defect, v, how)

    def terminate(self, fn, y, args, options, state, tags):
        return state.done, state.result

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}


def _forcing(state, size, tight):
    """η of the step at a point with ‖F‖ = `size`: Choice 2, not much below the last one
    while that is large, and `tight` for a correction that may be the last."""
    eta = GAMMA * (size / state.residual) ** ALPHA
    before = GAMMA * state.forcing**ALPHA
    eta = jnp.where(before > 0.1, jnp.maximum(eta, before), eta)
    eta = jnp.where(jnp.isinf(state.residual), state.forcing, eta)
    return jnp.where(state.near, tight, jnp.clip(eta, tight, 0.9))


def _backtrack(trial, size, slope, left):
    """The first part λ of the step that makes ‖F‖ smaller in proportion to λ, and whether
    there is one: 1, then what minimises a parabola of ‖F‖², between a tenth and a half of
    the last. `slope`: of ‖F‖² at λ = 0. `left`: ‖F - J d‖/‖F‖."""

    def attempt(carry):
        part = carry[1]
        after = trial(part)
        fell = after <= (1 - LEAST_DECREASE * part * (1 - left)) * size
        curve = after * after - size * size - slope * part
        lowest = jnp.where(curve > 0, -slope * part * part / (2 * curve), 0.5 * part)
        lowest = jnp.where(jnp.isfinite(lowest), lowest, 0.0)
        return part, jnp.clip(lowest, 0.1 * part, 0.5 * part), fell

    going = lambda carry: ~carry[2] & (carry[1] > LEAST_PART)
    start = jnp.zeros_like(size), jnp.ones_like(size), jnp.array(False)
    part, _, fell = jax.lax.while_loop(going, attempt, start)
    return part, fell
