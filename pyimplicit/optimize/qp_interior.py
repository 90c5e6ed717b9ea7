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

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .._status import Status
from .qp_data import QP
from .small import cholesky, cholesky_solve, product


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


def interior_point(qp: QP, tol, max_steps: int, target=0.0) -> Iterate:
    """The solution of a scaled programme to about `tol`, its multipliers and slacks; or the
    point of its central path where s z = `target`.

    `status`: converged, infeasible ((y, z) is then a ray that proves it), unbounded (x is
    one), nonfinite or max_steps_reached.
    """
    n, p, _ = qp.sizes
    eps = regularisation(qp.q.dtype)
    live, fixed = qp.live, qp.fixed
    some = jnp.sum(live)
    base = qp.P + eps * jnp.eye(n, dtype=qp.q.dtype)
    base = base + qp.A.T @ qp.A / eps if p else base
    d = jnp.where(live | fixed, qp.d, 0.0)

    def factor(w):
        return cholesky(qp.C.gram(w, base))

    def direction(L, w, r_x, r_y, t):
        r_x = r_x + qp.C.tmul(t)
        r_x = r_x + product(qp.A.T, r_y) / eps if p else r_x
        dx = -cholesky_solve(L, r_x)
        dy = (product(qp.A, dx) + r_y) / eps if p else r_y
        Cdx = qp.C.mul(dx)
        return dx, dy, t + w * Cdx, Cdx

    def residuals(x, y, z, s):
        r_x = product(qp.P, x) + qp.q + qp.C.tmul(z)
        r_x = r_x + product(qp.A.T, y) if p else r_x
        r_y = product(qp.A, x) - qp.b if p else qp.b
        Cx = qp.C.mul(x)
        r_z = jnp.where(live, Cx + s - d, jnp.where(fixed, Cx - d, 0.0))
        return r_x, r_y, r_z, Cx

    def state(x, y, z, s, steps, alpha):
        r_x, r_y, r_z, Cx = residuals(x, y, z, s)
        status = _status(qp, (x, y, z, s), (r_x, r_y, r_z), Cx, d, tol, target)
        stalled = (alpha < 1e-10) & (status == RUNNING)
        status = jnp.where(stalled, Status.max_steps_reached, status)
        return Iterate(x, y, z, s, r_x, r_y, r_z, status, steps)

    def start():
        w = jnp.where(live, 1.0, jnp.where(fixed, 1 / eps, 0.0))
        r_y = -qp.b
        x, y, z, _ = direction(factor(w), w, qp.q, r_y, -w * d)
        s = jnp.where(live, _inside(-z, live), 1.0)
        z = jnp.where(live, _inside(z, live), jnp.where(fixed, z, 0.0))
        return state(x, y, z, s, jnp.int32(0), jnp.ones((), x.dtype))

    def step(it: Iterate):
        x, y, z, s, r_x, r_y, r_z, _, steps = it
        w = jnp.where(live, z / (s + eps * z), jnp.where(fixed, 1 / eps, 0.0))
        L = factor(w)
        mu = jnp.sum(jnp.where(live, s * z, 0.0)) / jnp.maximum(some, 1)

        def towards(r_c):  # z ds + s dz = -r_c,  C dx + ds - δ dz = -r_z
            t = jnp.where(fixed, r_z / eps, 0.0)
            t = jnp.where(live, (z * r_z - r_c) / (s + eps * z), t)
            dx, dy, dz, Cdx = direction(L, w, r_x, r_y, t)
            return dx, dy, dz, jnp.where(live, eps * dz - r_z - Cdx, 0.0)

        _, _, dz, ds = towards(s * z)
        alpha = _length(z, dz, s, ds, live)
        after = jnp.sum(jnp.where(live, (s + alpha * ds) * (z + alpha * dz), 0.0))
        sigma = (after / jnp.maximum(some, 1) / jnp.where(mu > 0, mu, 1.0)) ** 3
        careful = steps >= CAREFUL
        sigma = jnp.where(careful, jnp.maximum(sigma, 0.1), sigma)
        order = jnp.where(careful, 0.0, jnp.minimum(1.0, 3 * alpha))
        dx, dy, dz, ds = towards(s * z + order * ds * dz - jnp.maximum(sigma * mu, target))
        most = _length(z, dz, s, ds, live, jnp.inf)
        near = jnp.where(careful, 0.9, jnp.clip(1 - mu, STEP, FAST))
        alpha = jnp.minimum(1.0, near * most)
        new = state(
            x + alpha * dx, y + alpha * dy, z + alpha * dz, s + alpha * ds, steps + 1, alpha
        )
        # A step that broke down is not taken.
        bad = new.status == Status.nonfinite
        keep = jax.tree.map(lambda a, b: jnp.where(bad, a, b), it, new)
        return keep._replace(status=new.status)

    going = lambda it: (it.status == RUNNING) & (it.steps < max_steps)
    it = jax.lax.while_loop(going, step, start())
    ran_out = it.status == RUNNING
    return it._replace(status=jnp.where(ran_out, Status.max_steps_reached, it.status))


RUNNING = jnp.int32(-1).item()


def _status(qp: QP, point, residual, Cx, d, tol, target):
    live = qp.live
    x, y, z, s = point
    r_x, r_y, r_z = residual
    top = lambda v: jnp.max(jnp.abs(v), initial=0.0)
    Px = product(qp.P, x)
    dual = r_x - Px - qp.q  # Aᵀy + Cᵀz
    Ax = r_y + qp.b
    near = lambda r, *sizes: (
        top(r) <= tol * (1 + jnp.max(jnp.stack([top(v) for v in sizes])))
    )
    gap = jnp.sum(jnp.where(live, jnp.abs(s * z - target), 0.0))
    linear = jnp.sum(qp.q * x)
    objective = jnp.abs(linear + jnp.sum(Px * x) / 2)
    there = (
        near(r_x, Px, qp.q, dual)
        & near(r_y, qp.b, Ax)
        & near(r_z, d, Cx)
        & (gap <= tol * (1 + objective))
    )
    # A feasible x would give 0 ≤ Σ z (d - C x) + y·(b - A x) = -ray - dual·x.
    ray = -(jnp.sum(qp.b * y) + jnp.sum(d * z))
    infeasible = (ray > 0) & (top(dual) <= RAY * ray)
    outward = jnp.max(
        jnp.where(live, Cx, jnp.where(qp.fixed, jnp.abs(Cx), 0.0)), initial=0.0
    )
    apart = jnp.maximum(jnp.maximum(outward, top(Ax)), top(Px))
    unbounded = (linear < 0) & (apart <= RAY * -linear)
    finite = jnp.isfinite(gap) & jnp.isfinite(top(r_x)) & jnp.isfinite(objective)
    status = jnp.int32(RUNNING)
    status = jnp.where(unbounded, jnp.int32(Status.unbounded), status)
    status = jnp.where(infeasible, jnp.int32(Status.infeasible), status)
    status = jnp.where(there, jnp.int32(Status.converged), status)
    return jnp.where(finite, status, jnp.int32(Status.nonfinite))


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
