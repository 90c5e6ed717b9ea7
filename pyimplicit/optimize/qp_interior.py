r"""Primal-dual interior point method for dense convex quadratic programmes.

Mehrotra's predictor-corrector from an infeasible start. With slacks s = d - C x > 0 and
W = diag(z/s) a Newton step solves

    [P  Aᵀ  Cᵀ  ] [dx]   [-r_x]
    [A  -δI     ] [dy] = [-r_y]       which is condensed to n unknowns:
    [C      -W⁻¹] [dz]   [-t/w]       (P + ρI + AᵀA/δ + CᵀWC) dx = …

one Cholesky factorisation a step, whatever the number of constraints. ρ and δ (also added
to W⁻¹, which bounds the condition number) are those of the proximal method of multipliers
(Friedlander, Orban 2012, doi:10.1007/s12532-012-0035-2): the right-hand sides are those of
the programme itself, so its solution is not perturbed, and P = 0 or dependent rows of A do
no harm.

Mehrotra 1992, doi:10.1137/0802028; Vandenberghe 2010, *The CVXOPT linear and quadratic
cone program solvers*, for the start and the step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._status import Status
from .matrices import cholesky, cholesky_solve, product, tproduct
from .qp_data import QP
from .until_done import until_done


STEP, FAST = 0.99, 0.999  # of the way to the boundary, and near the solution
CAREFUL = 15  # after so many steps shorter ones without correction: no going in circles


class Iterate(NamedTuple):
    x: jax.Array
    y: jax.Array
    z: jax.Array
    s: jax.Array
    r_x: jax.Array
    r_y: jax.Array
    r_z: jax.Array
    status: jax.Array
    steps: jax.Array


def regularisation(dtype) -> float:
    """ρ = δ, for data near 1."""
    return float(jnp.finfo(dtype).eps) ** 0.5


class Given(NamedTuple):
    """A scaled programme, the part of the condensed matrix that stays, P + ρI + AᵀA/δ, the
    tolerance, and s z at the point of the central path that is sought."""

    qp: QP
    H: jax.Array
    tol: jax.Array
    target: jax.Array

    @classmethod
    def of(cls, qp: QP, tol, target: Any = 0.0):
        eps, dtype = regularisation(qp.q.dtype), qp.q.dtype
        H = qp.P + eps * jnp.eye(qp.q.size, dtype=dtype)
        H = H + qp.A.T @ qp.A / eps if qp.b.size else H
        return cls(qp, H, jnp.asarray(tol, dtype), jnp.asarray(target, dtype))


def interior_point(given: Given, max_steps: int) -> Iterate:
    """The solution of a scaled programme to about `tol`, its multipliers and slacks; or the
    point of its central path where s z = `target`.

    `status`: converged, infeasible ((y, z) is then a ray that proves it), unbounded (x is
    one), nonfinite or max_steps_reached.
    """
    return ended(advanced(given, start(given), max_steps))


def advanced(given: Given, it: Iterate, max_steps: int) -> Iterate:
    """Steps from an iterate whose status is `RUNNING`, till it is another or no more are
    allowed."""
    running = lambda it: it.status == RUNNING
    return until_done(_step, running, max_steps)(given, it)


def ended(it: Iterate) -> Iterate:
    ran_out = it.status == RUNNING
    return it._replace(status=jnp.where(ran_out, Status.max_steps_reached, it.status))


RUNNING = jnp.int32(-1).item()


def start(given: Given) -> Iterate:
    """min ½xᵀPx + qᵀx + ½‖C x - d‖² and z = -s = C x - d, both moved inside."""
    qp, dtype = given.qp, given.qp.q.dtype
    live, fixed, eps = qp.live, qp.fixed, regularisation(dtype)
    w = jnp.where(live, 1.0, jnp.where(fixed, 1 / eps, 0.0))
    d = jnp.where(live | fixed, qp.d, 0.0)
    x, y, z, _ = _direction(qp, _factor(given, w), w, qp.q, -qp.b, -w * d)
    s = jnp.where(live, _inside(-z, live), 1.0)
    z = jnp.where(live, _inside(z, live), jnp.where(fixed, z, 0.0))
    return _iterate(given, (x, y, z, s), jnp.int32(0), 1.0)


def _step(given: Given, it: Iterate) -> Iterate:
    qp, target = given.qp, given.target
    live, fixed, eps = qp.live, qp.fixed, regularisation(qp.q.dtype)
    x, y, z, s, r_x, r_y, r_z, _, steps = it
    w = jnp.where(live, z / (s + eps * z), jnp.where(fixed, 1 / eps, 0.0))
    L = _factor(given, w)
    some = jnp.maximum(jnp.sum(live), 1)
    mu = jnp.sum(jnp.where(live, s * z, 0.0)) / some

    def towards(r_c):  # z ds + s dz = -r_c,  C dx + ds - δ dz = -r_z
        t = jnp.where(fixed, r_z / eps, 0.0)
        t = jnp.where(live, (z * r_z - r_c) / (s + eps * z), t)
        dx, dy, dz, Cdx = _direction(qp, L, w, r_x, r_y, t)
        return dx, dy, dz, jnp.where(live, eps * dz - r_z - Cdx, 0.0)

    _, _, dz, ds = towards(s * z)
    alpha = _length(z, dz, s, ds, live)
    after = jnp.sum(jnp.where(live, (s + alpha * ds) * (z + alpha * dz), 0.0)) / some
    sigma = (after / jnp.where(mu > 0, mu, 1.0)) ** 3
    careful = steps >= CAREFUL
    sigma = jnp.where(careful, jnp.maximum(sigma, 0.1), sigma)
    order = jnp.where(careful, 0.0, jnp.minimum(1.0, 3 * alpha))
    dx, dy, dz, ds = towards(s * z + order * ds * dz - jnp.maximum(sigma * mu, target))
    most = _length(z, dz, s, ds, live, jnp.inf)
    near = jnp.where(careful, 0.9, jnp.clip(1 - mu, STEP, FAST))
    alpha = jnp.minimum(1.0, near * most)
    point = x + alpha * dx, y + alpha * dy, z + alpha * dz, s + alpha * ds
    new = _iterate(given, point, steps + 1, alpha)
    # A step that broke down is not taken.
    bad = new.status == Status.nonfinite
    keep = jax.tree.map(lambda a, b: jnp.where(bad, a, b), it, new)
    return keep._replace(status=new.status)


def _factor(given: Given, w):
    """Of P + ρI + AᵀA/δ + Cᵀ diag(w) C."""
    return cholesky(given.qp.C.gram(w, given.H))


def _direction(qp: QP, L, w, r_x, r_y, t):
    eps = regularisation(qp.q.dtype)
    r_x = r_x + qp.C.tmul(t)
    r_x = r_x + tproduct(qp.A, r_y) / eps if r_y.size else r_x
    dx = -cholesky_solve(L, r_x)
    dy = (product(qp.A, dx) + r_y) / eps if r_y.size else r_y
    Cdx = qp.C.mul(dx)
    return dx, dy, t + w * Cdx, Cdx


def _iterate(given: Given, point, steps, alpha) -> Iterate:
    """The iterate at a point: its residuals, and what is to be said of it."""
    qp, _, tol, target = given
    x, y, z, s = point
    live, fixed = qp.live, qp.fixed
    d = jnp.where(live | fixed, qp.d, 0.0)
    Px, Cx, dual = product(qp.P, x), qp.C.mul(x), qp.C.tmul(z)
    dual = dual + tproduct(qp.A, y) if y.size else dual
    r_x = Px + qp.q + dual
    r_y = product(qp.A, x) - qp.b if y.size else qp.b
    r_z = jnp.where(live, Cx + s - d, jnp.where(fixed, Cx - d, 0.0))
    top = lambda v: jnp.max(jnp.abs(v), initial=0.0)
    most = lambda *sizes: tol * (1 + jnp.max(jnp.stack([top(v) for v in sizes])))
    gap = jnp.sum(jnp.where(live, jnp.abs(s * z - target), 0.0))
    linear = jnp.sum(qp.q * x)
    objective = jnp.abs(linear + jnp.sum(Px * x) / 2)
    there = (
        (top(r_x) <= most(Px, qp.q, dual))
        & (top(r_y) <= most(qp.b, r_y + qp.b))
        & (top(r_z) <= most(d, Cx))
        & (gap <= tol * (1 + objective))
    )
    # A feasible x would give 0 ≤ Σ z (d - C x) + y·(b - A x) = -ray - dual·x.
    ray = -(jnp.sum(qp.b * y) + jnp.sum(d * z))
    infeasible = (ray > 0) & (top(dual) <= RAY * ray)
    outward = jnp.where(live, Cx, jnp.where(fixed, jnp.abs(Cx), 0.0))
    apart = jnp.stack([jnp.max(outward, initial=0.0), top(r_y + qp.b), top(Px)])
    unbounded = (linear < 0) & (jnp.max(apart) <= RAY * -linear)
    finite = jnp.isfinite(gap) & jnp.isfinite(top(r_x)) & jnp.isfinite(objective)
    status = jnp.int32(RUNNING)
    for case, name in (
        (alpha < 1e-10, Status.max_steps_reached),  # stalled
        (unbounded, Status.unbounded),
        (infeasible, Status.infeasible),
        (there, Status.converged),
        (~finite, Status.nonfinite),
    ):
        status = jnp.where(case, jnp.int32(name), status)
    return Iterate(x, y, z, s, r_x, r_y, r_z, status, steps)


RAY = 1.5e-7  # how well a ray must prove what it says; ρ and δ keep it from growing fast


def _inside(v, live):
    """v, or v + a constant if an entry is not positive."""
    low = jnp.max(jnp.where(live, -v, -jnp.inf), initial=-jnp.inf)
    return jnp.where(low < -1e-8, v, v + 1 + low)


def _length(z, dz, s, ds, live, most=1.0):
    """The largest α ≤ `most` with z + α dz ≥ 0 and s + α ds ≥ 0."""
    to_zero = lambda v, dv: jnp.min(
        jnp.where(live & (dv < 0), -v / jnp.where(dv < 0, dv, -1.0), jnp.inf),
        initial=jnp.inf,
    )
    return jnp.minimum(most, jnp.minimum(to_zero(z, dz), to_zero(s, ds)))
