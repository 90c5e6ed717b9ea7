"""Gauss-Newton, matrix-free; for a target chi² see `discrepancy.py`."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from . import discrepancy
from .krylov import steihaug_cg
from .linesearch import armijo
from .objective import Objective
from .run import NOT_FINITE, SETTLED, Run


@dataclasses.dataclass(frozen=True)
class GaussNewton:
    """Minimises 1/2 |r(m)|² + beta prior(m) by linearising r.

    A step solves (JᵀJ + beta R) s = -(Jᵀr + beta R (m - m̂)) by conjugate gradients
    preconditioned with R⁻¹. J is never formed: a product with it is one linearised
    solve, one with Jᵀ a transposed solve, with the factor that the residual made. Every
    step passes a line search on the true objective. With a target and a prior each step
    chooses its own beta (`discrepancy.py`).

    `cg_steps`: most inner iterations. `forcing`: their relative residual, at most.
    `shrink`: the part of chi² that one step towards a target aims to leave.

    ??? cite "Reference"
        Haber, Ascher, Oldenburg, *On optimization techniques for solving nonlinear
        inverse problems*, Inverse Problems 16 (2000). doi:10.1088/0266-5611/16/5/309
    """

    cg_steps: int = 200
    forcing: float = 0.1
    shrink: float = 0.2

    name = "gauss-newton"

    def __call__(self, run: Run, x) -> tuple[jax.Array, bool, str]:
        """From x to the fitted x, whether it converged, and why it stopped."""
        if run.target is not None and run.objective.prior is not None:
            return discrepancy.descend(
                run, x, run.target, self.cg_steps, self.forcing, self.shrink
            )
        step = jax.jit(functools.partial(_step, run.objective, self.cg_steps))
        misfit, prior = run.start(x)
        if done := run.outcome(misfit):
            return x, *done
        beta = run.beta
        first, rtol, stop = math.nan, self.forcing, 0.0
        for k in range(run.max_steps):
            slope, norm, s, cg = step(x, beta, rtol, stop)
            slope, norm = float(slope), float(norm)
            if not math.isfinite(norm):
                return x, False, NOT_FINITE
            first = norm if k == 0 else first
            if norm == 0 or (norm <= stop and k):
                return x, True, f"the gradient fell to {norm:.3g} (from {first:.3g})"
            stop = run.rtol * first
            phi = misfit + beta * prior
            if run.settled(phi, slope):
                return x, True, SETTLED
            found = armijo(run.along(x, s, beta), phi, slope, run.eps)
            if found is None:
                return x, *run.no_step(phi, slope)
            length, (x, misfit, prior) = found
            run.add(x, beta, misfit, prior, gradient=norm, cg=cg, length=length)
            if done := run.outcome(misfit):
                return x, *done
            rtol = min(self.forcing, math.sqrt(norm / first))
        return x, False, run.out_of_steps


def _step(objective: Objective, cg_steps: int, x, beta, rtol, stop):
    """Slope, dual norm of the gradient, step and inner iterations (none if the norm is
    at most `stop`)."""
    r, push = jax.linearize(objective.residual, x)
    pull = jax.linear_transpose(push, x)
    precondition = functools.partial(objective.riesz, x)
    gradient = pull(r)[0] + beta * objective.prior_gradient(x)
    normal = lambda v: pull(push(v))[0] + beta * objective.precision(x, v)
    norm = jnp.sqrt(jnp.vdot(gradient, precondition(gradient)))
    rtol = jnp.where(norm <= stop, 1.0, rtol)
    s, cg, _ = steihaug_cg(normal, -gradient, precondition, rtol, cg_steps)
    return jnp.vdot(gradient, s), norm, s, cg
