r"""Entropic optimal transport.

    min ⟨P, C⟩ + ε KL(P | a bᵀ)   with   P 1 = a, Pᵀ 1 = b

has the solution P = a exp((f + g - C)/ε) b with potentials f, g that make the marginals
right. g is a formula in f, so the layer is one equation for f:

    T(f) = f + ε log Σⱼ bⱼ exp((gⱼ(f) - Cᵢⱼ)/ε) = 0,
    gⱼ(f) = -ε log Σᵢ aᵢ exp((fᵢ - Cᵢⱼ)/ε).

A constant may be added to f. That gauge is fixed by ⟨a, f⟩ = ⟨b, g⟩, as an added term that
vanishes at the solution, so that the linear systems of the derivative are regular. With
potentials relative to a bᵀ nothing is singular where a marginal is zero.

Sinkhorn's sweeps f ← f - T(f) follow each other while they contract well; where not, a
Newton step on the concave dual is tried, full or halved, and taken where it leaves a
smaller error in the marginals; from a large ε down to the given one. Sweeps after the first
are scalings of the plan (Schmitzer 2019, doi:10.1137/16M1106018).

Cuturi 2013, arXiv:1306.0895. Newton: Brauer, Clason, Lorenz, Wirth 2017, arXiv:1710.06635.
Derivative: Eisenberger et al. 2022, arXiv:2205.06688; Cuturi et al. 2020, arXiv:2002.03229.
"""

from typing import Any, NamedTuple

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import lineax as lx
from jax.scipy.special import logsumexp

from ..._status import Status
from ..._tree import stop_gradient
from ...engine.failure import fail_unless_zero
from ...implicit import Linearisation, attach
from ...linear.jacobian import DENSE_LIMIT
from ..vectors import check_positive
from .marginals import problem


COARSE = 1e-3  # error in the marginals, of the mass, at which ε is lowered
SWEEPS = 1500  # as many of them are taken rather than Newton steps
SPREAD = 16  # the first ε is this part of the spread of the costs, unless ε is larger
LARGE = 1e30  # scalings are kept below, then taken into the potentials
HALVINGS = 12


class Transport(NamedTuple):
    """A transport plan.

    `plan`: P, `(n, m)`. `f`, `g`: potentials `(n,)`, `(m,)`. `value`: what was minimised.
    `status`: a `Status`. `stats`: "iterations", "residual" (Σ|P 1 - a| + Σ|Pᵀ 1 - b| over
    the mass), …
    """

    plan: Any
    f: Any
    g: Any
    value: Any
    status: Any
    stats: dict[str, Any]


def sinkhorn(
    cost,
    a=None,
    b=None,
    *,
    epsilon,
    f0=None,
    rtol: float | None = None,
    max_steps: int = 2000,
    newton: bool | None = None,
    throw: bool = True,
) -> Transport:
    r"""Entropic transport between histograms a and b; see the head of this file.

    **Arguments:**

    - `cost`: C, `(n, m)`; +∞ forbids a pair.
    - `a`, `b`: marginals `(n,)`, `(m,)`, of one mass, not negative; uniform by default.
    - `epsilon`: ε, positive [units of the cost].
    - `f0`: a first guess of f, `(n,)`, for instance of a similar problem; then ε is not
      lowered in steps. Not differentiated.
    - `rtol`: error in the marginals, over the mass, at which it ends: 1e-10 (double), 1e-5.
    - `max_steps`: steps at most.
    - `newton`: try Newton steps where sweeps contract slowly. Their cost grows with
      min(n, m)³; by default up to 500.
    - `throw`: raise where it does not converge. False: see `status`; derivatives are NaN.

    **Returns:** a `Transport`; `value` is ⟨P, C⟩ + ε KL(P | a bᵀ). The gauge of the
    potentials is ⟨a, f⟩ = ⟨b, g⟩.

    **Derivative:** of T(f) = 0 by the implicit function theorem, in cost, a, b and ε, any
    order. In a and b it is that of the layer for b Σa/Σb: right for all changes that keep
    the masses equal. Where ε is so small that P is a permutation to round-off, f is not
    determined, and a derivative raises; see `assignment` and `exact`.

    **Errors:** `ValueError` on misfit shapes, epsilon ≤ 0; at run time on unequal masses,
    negative or NaN input, and (with `throw`) no convergence.

    One problem; for a batch use `jax.vmap`: each sample stops by itself.
    """
    check_positive("sinkhorn", "epsilon", epsilon)
    if not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(
            f"`sinkhorn(max_steps=...)` must be a positive integer.\nGot {max_steps!r}.\n"
            "The default is 2000."
        )
    C, a, b = problem("sinkhorn", cost, a, b)
    eps = jnp.asarray(epsilon, C.dtype)
    rtol = (1e-10 if C.dtype == jnp.float64 else 1e-5) if rtol is None else rtol
    if f0 is not None and jnp.shape(f0) != a.shape:
        raise ValueError(
            f"`sinkhorn(f0=...)` must be {a.shape}, one potential for each row of cost.\n"
            f"Got {jnp.shape(f0)}.\nLeave it out for a cold start."
        )
    return _sinkhorn(C, a, b, eps, f0, rtol, max_steps, newton, throw)


@eqx.filter_jit
def _sinkhorn(C, a, b, eps, f0, rtol, max_steps, newton, throw):
    # The smaller side is the unknown.
    flip = C.shape[0] > C.shape[1]
    if flip:
        C, a, b = C.T, b, a
    if f0 is not None:
        f0 = stop_gradient(jnp.asarray(f0, C.dtype))
        f0 = _other(f0, *stop_gradient((C.T, b, eps))) if flip else f0
    newton = C.shape[0] <= DENSE_LIMIT if newton is None else newton
    still = stop_gradient((C, a, b, eps))
    f, error, steps = _iterate(still, f0, rtol, max_steps, newton)
    code = jnp.where(
        error <= rtol,
        Status.converged,
        jnp.where(jnp.isnan(error), Status.nonfinite, Status.max_steps_reached),
    ).astype(jnp.int32)
    if throw:
        messages = tuple(f"pyimplicit.transport.sinkhorn: {s.message}" for s in Status)
        f = fail_unless_zero(f, code, messages)

    mass = jnp.sum(still[1])
    f = f - _gauge(f, *still) / (2 * mass)  # both sums are moved by half of it

    found: Any = code == 0

    def condition(f, theta):
        C, a, b, eps = theta
        return _log_error(f, C, a, b, eps) + _gauge(f, C, a, b, eps) / jnp.sum(a)

    how = Linearisation(jacobian=_slope, throw=throw)
    f = attach(f, condition, (C, a, b, eps), how, found)
    g = _other(f, C, a, eps)
    P = _plan(f, g, C, a, b, eps)
    value = _dot(a, f) + _dot(b, g) - eps * (jnp.sum(P) - jnp.sum(a))
    if flip:
        P, f, g = P.T, g, f
    stats = {"iterations": steps, "residual": error}
    return Transport(P, f, g, value, code, stats)


def _plan(f, g, C, a, b, eps):
    return a[:, None] * jnp.exp((f[:, None] + g - C) / eps) * b


def _other(f, C, a, eps):
    """g(f): makes the column sums right."""
    return -eps * logsumexp((f[:, None] - C) / eps, axis=0, b=a[:, None])


def _log_error(f, C, a, b, eps):
    """T(f), ε times the logarithm of row sums over a."""
    g = _other(f, C, a, eps)
    return f + eps * logsumexp((g - C) / eps, axis=1, b=b)


def _gauge(f, C, a, b, eps):
    return _dot(a, f) - _dot(b, _other(f, C, a, eps))


def _slope(f, theta):
    """The Jacobian of T and its gauge: I - W Vᵀ + 1 (a + V b)ᵀ/Σa, with the plan P over its
    row sums for W, over its column sums for V."""
    C, a, b, eps = theta
    Q = jnp.exp((f[:, None] + _other(f, C, a, eps) - C) / eps)  # P over a bᵀ
    W, V = Q * b, a[:, None] * Q
    W, V = W / jnp.sum(W, 1, keepdims=True), V / jnp.sum(V, 0)
    J = jnp.eye(a.size, dtype=f.dtype) - W @ V.T + (a + V @ b) / jnp.sum(a)
    return lx.MatrixLinearOperator(J)


def _dot(a, f):
    return jnp.sum(jnp.where(a > 0, a * f, 0 * a))


def _iterate(theta, f0, rtol, max_steps, newton):
    C, a, b, eps = theta
    finite = jnp.where(jnp.isfinite(C), C, 0)
    first = jnp.maximum((jnp.max(finite) - jnp.min(finite)) / SPREAD, eps)
    mass = jnp.sum(a)
    error_of = lambda T, eps: jnp.sum(a * jnp.abs(jnp.expm1(T / eps))) / mass

    def sweeps(f, now, goal, most):
        """Sweeps while `SWEEPS` more like the last would do: `(f, error, how many)`.

        One in logarithms; after it no row or column of the plan P vanishes, so that the
        next ones, f + ε log u, are products of P with vectors.
        """
        f = f - _log_error(f, C, a, b, now)
        P = _plan(f, _other(f, C, a, now), C, a, b, now)
        over = lambda mass, sums: jnp.where(mass > 0, mass / sums, 1.0)

        def sweep(carry):
            u, rows, before, _, k = carry
            u = over(a, rows)
            rows = P @ over(b, u @ P)
            return u, rows, jnp.sum(jnp.abs(u * rows - a)) / mass, before, k + 1

        def going(carry):
            u, _, error, before, k = carry
            left = jnp.log(error / goal) + SWEEPS * jnp.log(error / before)
            well = left <= 0 if newton else error < before
            inside = (jnp.max(u) < LARGE) & (jnp.min(u) > 1 / LARGE)
            return (error > goal) & (k < most) & well & inside  # false for NaN

        rows = jnp.sum(P, 1)
        here = jnp.sum(jnp.abs(rows - a)) / mass
        start = jnp.ones_like(a), rows, here, jnp.full_like(here, jnp.inf), jnp.int32(1)
        u, _, error, _, k = jax.lax.while_loop(going, sweep, start)
        return f + now * jnp.log(u), error, k

    def tries(f, now):
        """The Newton step, and points between."""
        g = _other(f, C, a, now)
        P = _plan(f, g, C, a, b, now)
        columns = jnp.where(b > 0, jnp.sum(P, 0), 1)
        rows = jnp.sum(P, 1)
        # ε² times the Hessian of the dual, its gauge fixed; empty rows stay put.
        H = (
            jnp.diag(jnp.where(a > 0, rows, 1))
            - (P / columns) @ P.T
            + jnp.outer(a, a) / mass
        )
        H = H + jnp.diag(1e-14 * jnp.maximum(rows, mass / a.size))
        d = now * jnp.linalg.solve(H, a - rows)
        halves = 0.5 ** jnp.arange(1, HALVINGS, dtype=f.dtype)
        return (f + d)[None], f + halves[:, None] * d

    def best_of(tried, now):
        of = lambda f: error_of(_log_error(f, C, a, b, now), now)
        errors = jax.vmap(of)(tried)
        best = jnp.argmin(jnp.where(jnp.isnan(errors), jnp.inf, errors))
        return tried[best], errors[best]

    def least(poor, more, f, error):
        """Where `poor`, the better of (f, error) and what `more()` gives."""
        other, its = jax.lax.cond(eqxi.unvmap_any(poor), more, lambda: (f, error))
        better = poor & ~(error <= its)  # true for NaN
        return jnp.where(better, other, f), jnp.where(better, its, error)

    def by_newton(start, here, now):
        first, halves = tries(start, now)
        found, error = best_of(first, now)
        # Seldom needed, and twelve times the work.
        poor = ~(error <= 0.5 * here)
        return least(poor, lambda: best_of(halves, now), found, error)

    def step(carry):
        start, now, _, steps = carry
        last = now <= eps
        goal = jnp.where(last, rtol, COARSE)
        f, error, k = sweeps(start, now, goal, max_steps - steps)
        if newton:
            poor = ~(error <= goal)
            steps = steps + poor
            f, error = least(poor, lambda: by_newton(f, error, now), f, error)
        now = jnp.where((error <= goal) & ~last, jnp.maximum(now / 2, eps), now)
        return f, now, jnp.where(last, error, jnp.inf), steps + k

    def going(carry):
        _, _, error, steps = carry
        return ~(error <= rtol) & (steps < max_steps)

    cold = f0 is None
    start = (
        jnp.zeros_like(a) if cold else f0,
        first if cold else eps,
        jnp.array(jnp.inf, C.dtype),
        jnp.array(0, jnp.int32),
    )
    f, _, _, steps = jax.lax.while_loop(going, step, start)
    # Rows without mass have no part in the error; a sweep gives them their potential.
    T = _log_error(f, C, a, b, eps)
    return jnp.where(a > 0, f, f - T), error_of(T, eps), steps
