"""Limited-memory BFGS in the inner product of the fit."""

import collections
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from .linesearch import wolfe
from .objective import Objective
from .run import NOT_FINITE, SETTLED, Run


@dataclasses.dataclass(frozen=True)
class LBFGS:
    """Minimises misfit(m) + beta prior(m) with `memory` pairs of past steps.

    The first inverse Hessian is the Riesz map M⁻¹ of the fit's inner product, scaled by
    the last pair. In a fine mesh's coordinates the plain method counts nodes; in the
    right inner product the number of steps does not depend on the mesh.

    ??? cite "Reference"
        Nocedal, *Updating quasi-Newton matrices with limited storage*, Math. Comp. 35
        (1980). doi:10.1090/S0025-5718-1980-0572855-7
        Schwedes, Ham, Funke, Piggott, *Mesh Dependence in PDE-Constrained Optimisation*
        (2017). doi:10.1007/978-3-319-59483-5
    """

    memory: int = 10

    name = "lbfgs"

    def __call__(self, run: Run, x) -> tuple[jax.Array, bool, str]:
        """From x to the fitted x, whether it converged, and why it stopped."""
        misfit, prior = run.start(x)
        if done := run.outcome(misfit):
            return x, *done
        slopes = jax.jit(functools.partial(_slopes, run.objective))
        riesz = jax.jit(run.objective.riesz)
        beta = run.beta
        pairs = collections.deque(maxlen=self.memory)
        phi, _, g, _ = slopes(x, jnp.zeros_like(x), beta)
        phi, norm = float(phi), _norm(g, riesz(x, g))
        first = norm
        for _ in range(run.max_steps):
            if not math.isfinite(norm):
                return x, False, NOT_FINITE
            if norm <= run.rtol * first or norm == 0:
                if run.history[-1].step or norm == 0:
                    return x, True, f"the gradient fell to {norm:.3g} (from {first:.3g})"
            p = -_two_loop(g, pairs, functools.partial(riesz, x))
            slope = float(jnp.vdot(g, p))
            if run.settled(phi, slope):
                return x, True, SETTLED
            # The first step has no scale: do not promise more than all of phi twice.
            t = 1.0 if pairs else min(1.0, 2 * abs(phi) / -slope) or 1.0
            found = wolfe(_along(run, slopes, x, p), phi, slope, run.eps, t)
            if found is None:
                return x, *run.no_step(phi, slope)
            length, (x_next, phi, g_next, parts) = found
            s, y = x_next - x, g_next - g
            curvature = float(jnp.vdot(s, y))
            if curvature > run.eps * float(jnp.linalg.norm(s) * jnp.linalg.norm(y)):
                pairs.append((s, y, curvature))
            x, g = x_next, g_next
            misfit, prior = map(float, parts)
            run.add(x, beta, misfit, prior, gradient=norm, length=length)
            norm = _norm(g, riesz(x, g))
            if done := run.outcome(misfit):
                return x, *done
        if norm <= run.rtol * first:
            return x, True, f"the gradient fell to {norm:.3g} (from {first:.3g})"
        return x, False, run.out_of_steps


def _along(run: Run, slopes, x, p):
    """The objective along p as `wolfe` wants it."""

    def value(t: float):
        compiled = lambda: slopes(x + t * p, p, run.beta)
        failed = (math.inf, math.inf, None, None)
        phi, rise, g, parts = run.evaluate.run(compiled, failed)
        return phi, rise, (x + t * p, phi, g, parts)

    return value


def _slopes(objective: Objective, x, p, beta):
    """Objective, slope along p, gradient, and the two parts of the objective."""

    def total(x):
        misfit, prior = objective.parts(x)
        return misfit + beta * prior, (misfit, prior)

    (phi, parts), g = jax.value_and_grad(total, has_aux=True)(x)
    return phi, jnp.vdot(g, p), g, parts


def _two_loop(g, pairs, riesz):
    """H g by Nocedal's recursion; H of no pairs is the Riesz map."""
    q, taken = g, []
    for s, y, curvature in reversed(pairs):
        a = jnp.vdot(s, q) / curvature
        q = q - a * y
        taken.append(a)
    z = riesz(q)
    if pairs:
        _, y, curvature = pairs[-1]
        z = z * (curvature / jnp.vdot(y, riesz(y)))
    for (s, y, curvature), a in zip(pairs, reversed(taken), strict=True):
        z = z + (a - jnp.vdot(y, z) / curvature) * s
    return z


def _norm(g, z) -> float:
    """The dual norm of a gradient whose Riesz representative is z."""
    square = float(jnp.vdot(g, z))
    return math.sqrt(max(square, 0.0)) if math.isfinite(square) else math.nan
