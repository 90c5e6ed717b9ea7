"""The Levenberg–Marquardt method for nonlinear least squares."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx

from .._tree import flatten, ravel, stop_gradient
from .gauss_newton import euclid, linearised, rounding_error
from .options import check_linear_solver
from .tolerance import scaled_size


class MarquardtState(eqx.Module):
    trial: jax.Array  # (n,): where the residuals are evaluated next
    r: jax.Array  # (m,): the residuals at z
    J: jax.Array  # (m, n): their Jacobian
    aux: Any
    cost: jax.Array  # ½‖r‖²; infinite before the first evaluation
    noise: jax.Array  # its rounding error
    predicted: jax.Array  # what the trial should take off the cost
    slope: jax.Array  # (n,): of the model at the trial; -μD² times the step
    scale: jax.Array  # (n,): D
    damping: jax.Array  # μ
    increase: jax.Array  # ν, of the next refusal
    size: jax.Array  # of the step from z to the trial, in units of the tolerance
    rate: jax.Array  # by how much it is smaller than the one before
    done: jax.Array
    result: optx.RESULTS


class LevenbergMarquardt(optx.AbstractLeastSquaresSolver):
    """Minimises ½‖r(z)‖² by damped Gauss–Newton steps (JᵀJ + μD²) d = -Jᵀr: an optimistix
    solver.

    `rtol`, `atol`: it ends when the step that would follow is within tolerance, with what
    its observed contraction leaves over; or when it is made of round-off. `damping`: the
    first μ, relative to D². `scaling`: D are the largest column norms of J so far, so that
    units of z do not matter; False: their largest, for all. `linear_solver`: `lx.QR()` (the
    default), `lx.SVD()` of the augmented Jacobian [J; √μ D]; or `lx.Cholesky()` of the
    normal equations: faster, but half the digits on ill-conditioned problems.

    Each step evaluates the residuals once, at a trial point; the first one at the first
    guess. The Jacobian, a dense matrix, is evaluated where the trial is accepted (under
    `vmap`: at each trial). `options`: "jac", "fwd" or "bwd".

    ??? cite "Reference"
        Scaling: Moré, *The Levenberg–Marquardt algorithm* (1978), Section 6.
        doi:10.1007/BFb0067700. Damping: Nielsen, *Damping parameter in Marquardt's method*
        (1999), IMM-REP-1999-05; Madsen, Nielsen, Tingleff, *Methods for non-linear least
        squares problems* (2004), Section 3.2.
    """

    rtol: Any = None
    atol: Any = None
    damping: Any = 1e-3
    scaling: bool = eqx.field(static=True, default=True)
    linear_solver: lx.AbstractLinearSolver | None = None
    norm: Callable = optx.rms_norm

    def __check_init__(self):
        check_linear_solver(self)
        if isinstance(self.damping, int | float) and not self.damping > 0:
            raise ValueError(
                "`LevenbergMarquardt(damping=...)` must be positive.\n"
                f"Got {self.damping}.\nFor undamped steps take pi.GaussNewton()."
            )

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        v, _ = flatten(y)
        m, n = jax.eval_shape(ravel, f_struct_zeros(f_struct)).size, v.size
        number = lambda a: jnp.asarray(a, v.dtype)
        zeros = lambda *shape: jnp.zeros(shape, v.dtype)
        return MarquardtState(
            v, zeros(m), zeros(m, n), f_struct_zeros(aux_struct), number(jnp.inf),
            number(0.0), number(1.0), zeros(n), zeros(n), number(self.damping), number(2.0),
            number(0.0), number(jnp.inf), jnp.array(False), optx.RESULTS.successful,
        )  # fmt: skip

    def step(self, fn, y, args, options, state, tags):
        v, unflatten = flatten(y)
        r, jacobian, aux = linearised(fn, unflatten, state.trial, args, options)
        cost = jax.lax.stop_gradient(0.5 * jnp.sum(r * r))
        first = jnp.isinf(state.cost)
        eps = float(jnp.finfo(v.dtype).eps)
        noise = state.noise
        quiet = state.predicted <= noise
        # False where the trial has no finite cost.
        accept = (cost < state.cost) | (quiet & (cost <= state.cost + noise))
        v, r, J, aux = jax.lax.cond(
            accept,
            lambda: (state.trial, r, jacobian.matrix(), aux),
            lambda: (v, state.r, state.J, state.aux),
        )
        r_, J_, v_ = stop_gradient((r, J, v))
        g = r_ @ J_
        columns = jnp.sqrt(jnp.sum(J_ * J_, axis=0))
        if not self.scaling:
            columns = jnp.full_like(columns, jnp.max(columns))
        scale = jnp.maximum(state.scale, columns)
        scale = jnp.where(scale > 0, scale, 1.0)

        # How good the model was: by the decrease, or where that drowns in round-off by
        # the slope, as far as it does not.
        error = rounding_error(r_, jnp.abs(J_) @ jnp.abs(v_))
        missed = euclid((g - state.slope) / scale) - error * v.size**0.5
        before = euclid((state.r @ state.J) / scale)
        missed = jnp.maximum(missed, 0) / jnp.where(before > 0, before, 1.0)
        gain = jnp.where(quiet, 1 - missed, (state.cost - cost) / state.predicted)
        least = jnp.where(jnp.abs(gain - 1) < 0.01, 0.1, 1 / 3)
        factor = jnp.clip(1 - (2 * gain - 1) ** 3, least, 3.0)
        factor = jnp.where(accept, jnp.where(first, 1.0, factor), state.increase)
        damping = jnp.clip(state.damping * factor, eps / 100, 1 / eps)
        increase = jnp.where(accept, 2.0, 2 * state.increase)

        d = self._solve(r, J, jax.lax.stop_gradient(jnp.sqrt(damping) * scale))
        d_ = jax.lax.stop_gradient(d)
        slope = -damping * scale**2 * d_
        size = scaled_size(self, d_, v_)
        rate = jnp.where(size > 0, size / state.size, 0.0)
        rate = jnp.where(accept, rate, state.rate)
        near = (size <= 1) & (rate < 1) & (size * rate <= 1 - rate)
        moved, held = euclid(J_ @ d_), jnp.sqrt(damping) * euclid(scale * d_)
        exact = (moved <= error) & ((held <= moved) | (damping <= eps / 100))
        stuck = ~accept & jnp.all(v_ + d_ == v_)
        result = optx.RESULTS.where(
            stuck, optx.RESULTS.promote(lx.RESULTS.stagnation), state.result
        )
        finite = jnp.isfinite(cost) | ~first
        result = optx.RESULTS.where(finite, result, optx.RESULTS.nonfinite)
        state = MarquardtState(
            v + d, r, J, aux,
            jnp.where(accept, cost, state.cost),
            2 * euclid(r_) * error,
            -0.5 * jnp.sum(d_ * (slope + g)),
            slope, scale, damping, increase,
            jnp.where(accept, size, state.size),
            rate,
            accept & (near | exact),
            result,
        )  # fmt: skip
        return unflatten(v), state, aux

    def _solve(self, r, J, damping):
        """d that minimises ‖J d + r‖² + ‖damping · d‖²."""
        if isinstance(self.linear_solver, lx.Cholesky):
            H = J.T @ J + jnp.diag(damping**2)
            operator = lx.MatrixLinearOperator(H, lx.positive_semidefinite_tag)
            right = -(r @ J)
        else:
            augmented = jnp.concatenate([J, jnp.diag(damping)])
            operator = lx.MatrixLinearOperator(augmented)
            right = jnp.concatenate([-r, jnp.zeros_like(damping)])
        solver = lx.QR() if self.linear_solver is None else self.linear_solver
        return lx.linear_solve(operator, right, solver, throw=False).value

    def terminate(self, fn, y, args, options, state, tags):
        return state.done, state.result

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}


def f_struct_zeros(struct):
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), struct)
