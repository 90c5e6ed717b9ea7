r"""Gauss-Newton that meets a target chi² (Morozov's discrepancy principle).

Each step linearises r and looks for z = s + q, where q is the prior's own gradient
(q = m - m̂ if it is quadratic), that minimises |J z - d|² + beta zᵀR z, d = J q - r. A
Golub-Kahan bidiagonalisation of J in the inner product of R turns that into a small
problem that is solved for *every* beta at once. So the beta for which the linear model
leaves the chi² that is aimed at costs no further solve, and needs no cooling schedule.

??? cite "Reference"
    Chung, Saibaba, *Generalized hybrid iterative methods for large-scale Bayesian
    inverse problems*, SIAM J. Sci. Comput. 39 (2017). doi:10.1137/16M1081968 (the
    bidiagonalisation). Hanke, *A regularizing Levenberg-Marquardt scheme*, Inverse
    Problems 13 (1997). doi:10.1088/0266-5611/13/1/007 (beta by the linear model)
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .krylov import Bidiagonal, bidiagonal_start, bidiagonalise, enlarge
from .linesearch import armijo, round_off
from .objective import Objective
from .run import NOT_FINITE, Run


# A fit ends with chi² within this part of the target; below it only where so many steps
# back up did not bring it there.
TOLERANCE, CORRECTIONS = 0.01, 3
# Inner iterations between two looks at the small problem, and room for them at first.
CHUNK, ROOM = 8, 48


def descend(
    run: Run, x, target: float, cg_steps: int, forcing: float, shrink: float
) -> tuple[jax.Array, bool, str]:
    """From x to the fitted x, whether it converged, and why it stopped."""
    run.slack = TOLERANCE
    highest = (1 + TOLERANCE) * target
    begin = jax.jit(functools.partial(_begin, run.objective))
    extend = jax.jit(functools.partial(_extend, run.objective))
    misfit, prior = run.start(x)
    if done := run.outcome(misfit):
        return x, *done
    size = run.objective.num_data or 1
    corrections = 0
    for _ in range(run.max_steps):
        chi2 = run.objective.chi2(misfit)
        goal = size * max(target, shrink * chi2)
        here, basis = begin(x)
        if not np.isfinite(np.asarray(here.products)).all():
            return x, False, NOT_FINITE
        while True:
            if int(basis.k) + CHUNK >= len(basis.alpha):
                basis = enlarge(basis)
            basis = extend(x, basis)
            k = int(basis.k)
            small = _small_problem(basis, goal)
            norm = _dual_norm(here.products, small.beta)
            enough = small.reached and small.residual <= forcing * norm
            if enough or k >= cg_steps or small.exhausted:
                break
        beta = small.beta
        s, slope = _step(here, basis.V, small.y.astype(x.dtype), beta)
        slope = float(slope)
        phi = misfit + beta * prior
        value = _not_above(run.along(x, s, beta), max(misfit, highest * size / 2))
        found = armijo(value, phi, slope, run.eps) if slope < 0 else None
        if found is None:
            if run.reached(misfit):
                break
            if round_off(phi, slope, run.eps):
                return x, False, _STALLED
            return x, *run.no_step(phi, slope)
        length, (x, misfit, prior) = found
        run.add(x, beta, misfit, prior, gradient=norm, cg=k, length=length)
        if run.reached(misfit):
            near = run.objective.chi2(misfit) >= (1 - TOLERANCE) * target
            corrections += 1
            if near or corrections > CORRECTIONS:
                break
        if run.stopped:
            break
        if _stalled(run.history, highest):
            return x, False, _STALLED
    converged, message = run.outcome(misfit) or (False, run.out_of_steps)
    return x, converged, message


def _not_above(value, misfit: float):
    """`value` that also refuses to raise the misfit above a bound: beta is another in
    each step, so the objective's decrease alone does not lead to the target."""

    def bounded(t: float):
        phi, rest = value(t)
        return (phi if rest[1] <= misfit else math.inf), rest

    return bounded


class _Here(NamedTuple):
    """At one x: the gradients of misfit and prior, the prior's gradient q in its own
    inner product, and the products |g|², g·q, |q|² of the two in that inner product."""

    misfit_gradient: jax.Array
    prior_gradient: jax.Array
    q: jax.Array
    products: jax.Array


def _begin(objective: Objective, x) -> tuple[_Here, Bidiagonal]:
    r, push = jax.linearize(objective.residual, x)
    pull = jax.linear_transpose(push, x)
    solve = functools.partial(objective.covariance, x)
    p = objective.prior_gradient(x)
    q = solve(p)
    d = push(q) - r
    (pulled,) = jax.vmap(pull)(jnp.stack([r, d]))
    solved = jax.vmap(solve)(pulled)
    g, Rg = pulled[0], solved[0]
    products = jnp.stack([jnp.vdot(g, Rg), jnp.vdot(g, q), jnp.vdot(p, q)])
    return _Here(g, p, q, products), bidiagonal_start(d, pulled[1], solved[1], ROOM)


@jax.jit
def _step(here: _Here, V, y, beta):
    """The step z - q of z = V y, and the objective's slope along it."""
    s = V @ y - here.q
    return s, jnp.vdot(here.misfit_gradient + beta * here.prior_gradient, s)


def _extend(objective: Objective, x, basis: Bidiagonal) -> Bidiagonal:
    _, push = jax.linearize(objective.residual, x)
    pull = jax.linear_transpose(push, x)
    solve = functools.partial(objective.covariance, x)
    return bidiagonalise(push, lambda u: pull(u)[0], solve, basis, CHUNK)


class _Small(NamedTuple):
    """The projected problem at its beta: coordinates y in V, the norm of the residual of
    the normal equations, whether the goal was reached, and whether the space is whole."""

    beta: float
    y: np.ndarray
    residual: float
    reached: bool
    exhausted: bool


def _small_problem(basis: Bidiagonal, goal: float) -> _Small:
    """min |B y - b e₁|² + beta |y|² with beta such that |B y - b e₁|² = goal, or, where
    no beta leaves so little, a tenth more than the least."""
    k = int(basis.k)
    alpha, gamma = np.asarray(basis.alpha, float), np.asarray(basis.gamma, float)
    B = np.zeros((k + 1, k))
    B[np.arange(k), np.arange(k)] = alpha[:k]
    B[np.arange(k) + 1, np.arange(k)] = gamma[1 : k + 1]
    P, sigma, Qt = np.linalg.svd(B)
    c = gamma[0] * P[0]
    left = lambda b: float(np.sum((b / (sigma**2 + b) * c[:k]) ** 2) + c[k] ** 2)
    low, high = 1e-14 * sigma[0] ** 2, 1e6 * sigma[0] ** 2
    reached = left(low) < goal
    goal = goal if reached else 1.1 * left(low)
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if left(middle) < goal else (low, middle)
    y = Qt.T @ (sigma / (sigma**2 + low) * c[:k])
    residual = alpha[k] * gamma[k] * abs(y[-1])
    exhausted = alpha[k] * gamma[k] <= 1e-14 * sigma[0] ** 2
    y = np.pad(y, (0, len(alpha) - k))
    return _Small(low, y, residual, reached, exhausted)


def _dual_norm(products, beta: float) -> float:
    gg, gq, qq = (float(p) for p in products)
    return math.sqrt(max(gg + 2 * beta * gq + beta**2 * qq, 0.0))


def _stalled(history, target: float) -> bool:
    """Three steps above the target, and chi² hardly moves."""
    now = history[-1].chi2
    return len(history) > 4 and now > target and now > 0.99 * history[-4].chi2


_STALLED = (
    "chi2 no longer falls although the prior is weakened: the errors are set too small, "
    "or the model cannot explain the data (geometry, mesh, outliers, a wrong derivative)"
)
