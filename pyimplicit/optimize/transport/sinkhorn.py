r"""Entropic optimal transport.

    min ⟨P, C⟩ + ε KL(P | a bᵀ)   with   P 1 = a, Pᵀ 1 = b

has the solution P = a exp((f + g - C)/ε) b with potentials f, g that make the marginals
right. g is a formula in f, so the layer is one equation for f:

    T(f) = f + ε log Σⱼ bⱼ exp((gⱼ(f) - Cᵢⱼ)/ε) = 0,
    gⱼ(f) = -ε log Σᵢ aᵢ exp((fᵢ - Cᵢⱼ)/ε).

A constant may be added to f. That gauge is fixed by ⟨a, f⟩ = ⟨b, g⟩, as an added term that
vanishes at the solution, so that the linear systems of the derivative are regular. With
potentials relative to a bᵀ nothing is singular where a marginal is zero.

Each step is Sinkhorn's f ← f - T(f) or, where that contracts slowly and it leaves a smaller
error in the marginals, a Newton step on the concave dual, full or halved; from a large ε
down to the given one.

Cuturi 2013, arXiv:1306.0895. Newton: Brauer, Clason, Lorenz, Wirth 2017, arXiv:1710.06635.
Derivative: Eisenberger et al. 2022, arXiv:2205.06688; Cuturi et al. 2020, arXiv:2002.03229.
"""

from typing import Any, NamedTuple

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from ..._status import Status
from ..._tree import stop_gradient
from ...engine.failure import fail_unless_zero
from ...implicit import Linearisation, attach
from ...linear.jacobian import DENSE_LIMIT
from ..vectors import check_positive
from .marginals import problem


COARSE = 1e-3  # error in the marginals, of the mass, at which ε is lowered
SWEEP = (
    0.25  # a sweep that leaves so little of the error is kept; else a Newton step is tried
)
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
    - `newton`: try Newton steps, whose cost grows with min(n, m)³; by default up to 500.
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

    f = attach(f, condition, (C, a, b, eps), Linearisation(throw=throw), found)
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


def _dot(a, f):
    return jnp.sum(jnp.where(a > 0, a * f, 0 * a))


def _iterate(theta, f0, rtol, max_steps, newton):
    C, a, b, eps = theta
    finite = jnp.where(jnp.isfinite(C), C, 0)
    largest = jnp.maximum(jnp.max(finite) - jnp.min(finite), eps)
    mass = jnp.sum(a)
    error_of = lambda f, eps: jnp.sum(
        a * jnp.abs(jnp.expm1(_log_error(f, C, a, b, eps) / eps))
    )

    def tries(f, now):
        """The Newton step, points between, and the error here."""
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
        here = jnp.sum(jnp.abs(rows - a)) / mass
        return (f + d)[None], f + halves[:, None] * d, here

    def best_of(tried, now):
        errors = jax.vmap(lambda f: error_of(f, now))(tried) / mass
        best = jnp.argmin(jnp.where(jnp.isnan(errors), jnp.inf, errors))
        return tried[best], errors[best]

    def least(poor, more, f, error):
        """Where `poor`, the better of (f, error) and what `more()` gives."""
        other, its = jax.lax.cond(eqxi.unvmap_any(poor), more, lambda: (f, error))
        better = poor & ~(error <= its)  # true for NaN
        return jnp.where(better, other, f), jnp.where(better, its, error)

    def by_newton(f, now):
        first, halves, here = tries(f, now)
        found, error = best_of(first, now)
        # Seldom needed, and twelve times the work.
        poor = ~(error <= 0.5 * here)
        return least(poor, lambda: best_of(halves, now), found, error)

    def step(carry):
        start, now, _, steps = carry
        T = _log_error(start, C, a, b, now)
        f, error = best_of((start - T)[None], now)
        if newton:  # a sweep that contracts well is cheaper
            before = jnp.sum(a * jnp.abs(jnp.expm1(T / now))) / mass
            slow = ~(error <= SWEEP * before)
            f, error = least(slow, lambda: by_newton(start, now), f, error)
        last = now <= eps
        now = jnp.where((error <= COARSE) & ~last, jnp.maximum(now / 2, eps), now)
        return f, now, jnp.where(last, error, jnp.inf), steps + 1

    def going(carry):
        _, _, error, steps = carry
        return ~(error <= rtol) & (steps < max_steps)

    cold = f0 is None
    f = jnp.zeros_like(a) if cold else f0
    start = (
        f,
        largest if cold else eps,
        jnp.array(jnp.inf, C.dtype),
        jnp.array(0, jnp.int32),
    )
    f, _, _, steps = jax.lax.while_loop(going, step, start)
    # Rows without mass have no part in the error; a sweep gives them their potential.
    f = f - _log_error(f, C, a, b, eps)
    return f, error_of(f, eps) / mass, steps
