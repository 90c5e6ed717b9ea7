"""Inexact Newton with exact Hessian-vector products."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from .krylov import steihaug_cg
from .linesearch import armijo
from .objective import Objective
from .run import NOT_FINITE, SETTLED, Run


@dataclasses.dataclass(frozen=True)
class NewtonCG:
    """Minimises misfit(m) + beta prior(m) with its true Hessian, matrix-free.

    A step solves H s = -g by conjugate gradients in the fit's inner product, to a
    relative residual of min(`forcing`, sqrt(|g|/|g₀|)) (Eisenstat & Walker), and stops
    at negative curvature (Steihaug). H v is a tangent of the gradient: one more
    linearised and one more transposed solve with the factors at hand.

    ??? cite "Reference"
        Eisenstat, Walker, *Choosing the forcing terms in an inexact Newton method*,
        SIAM J. Sci. Comput. 17 (1996). doi:10.1137/0917003
        Steihaug (1983), doi:10.1137/0720042
    """

    cg_steps: int = 200
    forcing: float = 0.5

    name = "newton-cg"

    def __call__(self, run: Run, x) -> tuple[jax.Array, bool, str]:
        """From x to the fitted x, whether it converged, and why it stopped."""
        step = jax.jit(functools.partial(_step, run.objective, self.cg_steps))
        misfit, prior = run.start(x)
        if done := run.outcome(misfit):
            return x, *done
        beta = run.beta
        first = None
        for _ in range(run.max_steps):
            scale = math.inf if first is None else first
            slope, norm, s, cg = step(x, beta, self.forcing, scale, run.rtol)
            slope, norm = float(slope), float(norm)
            first = norm if first is None else first
            if not math.isfinite(norm):
                return x, False, NOT_FINITE
            if norm == 0 or norm <= run.rtol * scale < math.inf:
                return x, True, f"the gradient fell to {norm:.3g} (from {first:.3g})"
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
        return x, False, run.out_of_steps


def _step(objective: Objective, cg_steps: int, x, beta, forcing, first, rtol):
    """Slope, dual norm of the gradient, step and CG's iterations."""
    gradient_of = jax.grad(functools.partial(objective.total, beta=beta))
    gradient, hessian = jax.linearize(gradient_of, x)
    precondition = functools.partial(objective.riesz, x)
    norm = jnp.sqrt(jnp.vdot(gradient, precondition(gradient)))
    known = jnp.isfinite(first)
    eta = jnp.minimum(forcing, jnp.sqrt(norm / jnp.where(known, first, norm)))
    eta = jnp.where(known & (norm <= rtol * first), 1.0, eta)
    s, cg, _ = steihaug_cg(hessian, -gradient, precondition, eta, cg_steps)
    return jnp.vdot(gradient, s), norm, s, cg
