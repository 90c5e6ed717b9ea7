"""Gauss-Newton with conjugate gradients and, for a target, a cooled prior."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from .krylov import steihaug_cg
from .linesearch import armijo, at_precision
from .objective import Objective
from .run import Run


# The last beta is sought until chi² lies in (1 - WINDOW, 1] times the target.
WINDOW = 0.05


@dataclasses.dataclass(frozen=True)
class GaussNewton:
    """Minimises 1/2 |r(m)|² + beta prior(m) by linearising r.

    A step solves (JᵀJ + beta R) s = -(Jᵀr + beta R (m - m̂)) by conjugate gradients
    preconditioned with R⁻¹; J is never formed, each product is one linearised and one
    transposed solve with the factor that the residual made. Every step passes a line
    search on the true objective.

    With a target, beta starts at `start` times the largest eigenvalue of R⁻¹JᵀJ and is
    multiplied by `cooling` after each step, until chi² is below the target; the last
    step's beta is then raised to meet it (Morozov's discrepancy principle).

    `cg_steps`: most inner iterations. `forcing`: their relative residual, at most.

    ??? cite "Reference"
        Haber, Ascher, Oldenburg, *On optimization techniques for solving nonlinear
        inverse problems*, Inverse Problems 16 (2000). doi:10.1088/0266-5611/16/5/309
    """

    cg_steps: int = 200
    forcing: float = 0.05
    cooling: float = 0.2
    start: float = 0.1

    name = "gauss-newton"

    def __call__(self, run: Run, x) -> tuple[jax.Array, bool, str]:
        """From x to the fitted x, whether it converged, and why it stopped."""
        step = jax.jit(functools.partial(_step, run.objective, self.cg_steps))
        misfit, prior = run.start(x)
        if done := run.outcome(misfit):
            return x, *done
        cool = run.target is not None and run.objective.prior is not None
        beta = 1.0 if run.beta is None else run.beta
        if cool and run.beta is None:
            beta = self.start * float(step(x, 0.0, 1.0, math.inf)[-1])
        eps = float(jnp.finfo(x.dtype).eps)
        first, rtol, stop = math.nan, self.forcing, 0.0
        for k in range(run.max_steps):
            slope, norm, s, cg, _ = step(x, beta, rtol, stop)
            slope, norm = float(slope), float(norm)
            first = norm if k == 0 else first
            if not cool:
                rtol = min(self.forcing, math.sqrt(norm / first) if first else 0.0)
                stop = run.rtol * first
            if not math.isfinite(norm):
                return x, False, _NOT_FINITE
            if norm == 0 or (norm <= stop and k):
                return x, True, f"the gradient fell to {norm:.3g} (from {first:.3g})"
            phi = misfit + beta * prior
            found = armijo(self._along(run, x, s, beta), phi, slope)
            if found is None:
                if at_precision(phi, slope, eps):
                    return x, True, "no decrease is possible in working precision"
                return x, False, _NO_DECREASE
            length, (x_next, misfit, prior) = found
            if cool and run.objective.chi2(misfit) < (1 - WINDOW) * run.target:
                args = (run, step, x, beta, (length, x_next, misfit, prior))
                beta, (length, x_next, misfit, prior) = self._meet(*args)
            x = x_next
            run.add(x, beta, misfit, prior, gradient=norm, cg=cg, length=length)
            if done := run.outcome(misfit):
                return x, *done
            if cool and _stalled(run.history):
                return x, False, _STALLED
            if cool and length > 0.5:  # a cut step says: not yet linear enough
                beta *= self.cooling
        return x, False, f"`max_steps` = {run.max_steps} steps were not enough"

    def _along(self, run: Run, x, s, beta):
        def value(t):
            x_next = x + t * s
            misfit, prior = run.evaluate(x_next)
            return misfit + beta * prior, (x_next, misfit, prior)

        return value

    def _meet(self, run: Run, step, x, beta, found):
        """The same linearisation with a larger beta, so that chi² is not below the
        target by more than needed: regula falsi in log beta and log chi²."""
        target = math.log((1 - WINDOW / 2) * run.target)
        chi2 = lambda f: run.objective.chi2(f[2])
        points = [(math.log(beta), math.log(chi2(found)))]
        longest = -math.log(self.cooling)
        best, lowest, highest = (beta, found), points[0][0], math.inf
        for _ in range(6):
            b = lowest + longest / 2
            if len(points) > 1:
                (b0, c0), (b1, c1) = points[-2:]
                b = b1 + (target - c1) * (b1 - b0) / (c1 - c0) if c1 != c0 else b
            b = min(max(b, lowest + 0.05 * longest), lowest + longest)
            b = b if b < highest else (lowest + highest) / 2
            _, _, s, _, _ = step(x, math.exp(b), self.forcing, 0.0)
            x_next = x + s
            misfit, prior = run.evaluate(x_next)
            trial = (1.0, x_next, misfit, prior)
            if not math.isfinite(misfit) or run.objective.chi2(misfit) > run.target:
                highest = b
            else:
                best, lowest = (math.exp(b), trial), b
                if chi2(trial) >= (1 - WINDOW) * run.target:
                    break
            if math.isfinite(misfit):
                points.append((b, math.log(max(chi2(trial), 1e-300))))
        return best


def _step(objective: Objective, cg_steps: int, x, beta, rtol, stop):
    """The slope of the objective along the step, the gradient's dual norm, the step,
    CG's iterations, and an estimate of the largest eigenvalue of R⁻¹JᵀJ."""
    r, push = jax.linearize(objective.residual, x)
    pull = jax.linear_transpose(push, x)
    precondition = functools.partial(objective.riesz, x)
    (misfit_gradient,) = pull(r)
    gradient = misfit_gradient + beta * objective.prior_gradient(x)
    normal = lambda v: pull(push(v))[0] + beta * objective.precision(x, v)
    norm = jnp.sqrt(jnp.vdot(gradient, precondition(gradient)))
    rtol = jnp.where(norm <= stop, 1.0, rtol)
    s, cg, _ = steihaug_cg(normal, -gradient, precondition, rtol, cg_steps)
    p = precondition(misfit_gradient)
    Jp = push(p)
    largest = jnp.vdot(Jp, Jp) / jnp.vdot(p, objective.precision(x, p))
    return jnp.vdot(gradient, s), norm, s, cg, largest


def _stalled(history) -> bool:
    """Three steps with a tenth of the prior's weight each, and chi² hardly moves."""
    return len(history) > 4 and history[-1].chi2 > 0.99 * history[-4].chi2


_NOT_FINITE = (
    "the gradient is not finite where the misfit is: look for sqrt, norm or a power of "
    "something that is zero there"
)
_NO_DECREASE = (
    "the line search found no decrease: the derivative of the misfit is wrong (try "
    "pi.taylor_test), or the misfit is noisy"
)
_STALLED = (
    "chi2 no longer falls although the prior is weakened: the errors are set too small, "
    "or the model cannot explain the data (geometry, mesh, outliers)"
)
