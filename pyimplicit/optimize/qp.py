"""Convex quadratic programmes as layers."""

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .._status import Status
from .._tree import stop_gradient
from ..engine.failure import fail_unless_zero
from ..implicit import borrow
from ..linear.operator import SparseOperator
from .cone_host import Clarabel
from .matrices import cholesky, product
from .messages import messages
from .qp_check import indefinite_below, prepare
from .qp_data import QP, programme, scaled
from .qp_degenerate import Degenerate, differentiable, policy
from .qp_interior import interior_point
from .qp_julia import in_julia, julia_optimum
from .qp_kkt import Sets
from .qp_polish import Polished, polish
from .qp_sparse import sparse_optimum, sparse_programme


class InteriorPoint(eqx.Module):
    """A dense primal-dual interior point method, then an exact step on the active set.

    `rtol`: relative accuracy of the interior point; what follows it is exact to about 1e-10
    (1e-5 in single precision). `max_steps`: at most. `backend`: "julia", over threads;
    "jax", compiled by XLA; by default Julia on the CPU where it is the engine.
    """

    rtol: float | None = None
    max_steps: int = eqx.field(static=True, default=60)
    backend: Literal["julia", "jax"] | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.backend not in (None, "julia", "jax"):
            raise ValueError(
                "`InteriorPoint(backend=...)` must be 'julia', 'jax' or None.\n"
                f"Got {self.backend!r}.\nLeave it out for the current engine's."
            )


class QPSolution(eqx.Module):
    """The optimum of a quadratic programme.

    `x` (n,); multipliers `y` (p,) of A x = b, `z` (m,) ≥ 0 of G x ≤ h, `z_lb`, `z_ub` (n,)
    ≥ 0 of the bounds (zero where there are none); `value` [units of the objective];
    `status`: an `int32` of `Status`; `stats`: "iterations", "residual" (the largest
    violation of an optimality condition, relative to its terms), "polished".
    `programme`, `sets`: the programme and its active rows, for `pi.certificate`.

    An infeasible programme has in (y, z, z_lb, z_ub) a ray that proves it (Farkas): Aᵀy +
    Gᵀz - z_lb + z_ub = 0 and bᵀy + hᵀz - lbᵀz_lb + ubᵀz_ub < 0; an unbounded one has a ray
    in x.
    """

    x: jax.Array
    y: jax.Array
    z: jax.Array
    z_lb: jax.Array
    z_ub: jax.Array
    value: jax.Array
    status: jax.Array
    stats: dict[str, Any]
    programme: Any
    sets: Any


def qp(
    P: Any,
    q: Any,
    A: Any = None,
    b: Any = None,
    G: Any = None,
    h: Any = None,
    lb: Any = None,
    ub: Any = None,
    *,
    solver: InteriorPoint | Clarabel | None = None,
    degenerate: Degenerate = "least_norm",
    throw: bool = True,
) -> QPSolution:
    r"""Solves  min ½ xᵀP x + qᵀx  subject to  A x = b,  G x ≤ h,  lb ≤ x ≤ ub.

    **Arguments:**

    - `P`: `(n, n)`, positive semidefinite; of a non-symmetric P the symmetric part counts.
    - `q`: `(n,)`.
    - `A`, `b`: `(p, n)`, `(p,)`; rows may depend on each other.
    - `G`, `h`: `(m, n)`, `(m,)`; an infinite h is no constraint.
    - `lb`, `ub`: `(n,)` or numbers; infinite: no bound; equal: a fixed unknown.
    - `solver`: `pi.InteriorPoint(...)` for arrays, batched in Julia or in JAX;
      `pi.Clarabel(...)` on the CPU, in double precision, for `SparseOperator`s (any of P,
      A, G; P may be None).
    - `degenerate`: what the derivative is where there is none in the usual sense:
      "least_norm": the pseudo-inverse of the linearised optimality conditions (for one
      weakly active bound on a unit Hessian: the mean of the one-sided derivatives);
      "one_sided": in forward mode the directional derivative, by a quadratic programme for
      the tangent; reverse mode is an error at a kink; "smoothed", or `pi.Smoothed(mu)`:
      the derivative of the central path at slack times multiplier = mu.
    - `throw`: raise on failure. False: `status` says what happened, derivatives are NaN.

    A batch by `jax.vmap` is one batched solve, in which each programme stops by itself.

    **Returns:** a `QPSolution`, with the Lagrangian ½xᵀPx + qᵀx + yᵀ(Ax - b) + zᵀ(Gx - h) -
    z_lbᵀ(x - lb) + z_ubᵀ(x - ub).

    **Derivative:** of x, all multipliers and the value, in all arguments, both modes, any
    order: the implicit function theorem on the optimality conditions of the active set,
    solved with the factor of the last step; the solve is checked. It is exact where the
    active constraints are independent and each has a positive multiplier; see
    `pi.certificate`.

    **Errors:** `ValueError`/`TypeError` on misfit shapes, and on values that are not traced
    (NaN, lb > ub, an indefinite P), before any solve. At run time, if `throw`: the message
    of a `Status` (infeasible, unbounded, not_positive_definite, nonfinite, …).

    ??? cite "Reference"
        Mehrotra, *On the implementation of a primal-dual interior point method* (1992).
        doi:10.1137/0802028. Amos, Kolter, *OptNet* (2017). arXiv:1703.00443. Jittorntrum,
        *Solution point differentiability without strict complementarity* (1984).
        doi:10.1007/BFb0121215 (one-sided derivatives)
    """
    sparse = any(isinstance(M, SparseOperator) for M in (P, A, G))
    if solver is None:
        solver = Clarabel() if sparse else InteriorPoint()
    _check_solver(solver, sparse)
    how = policy("qp", degenerate)
    if isinstance(solver, Clarabel) and how != "least_norm":
        raise ValueError(
            "`qp(degenerate=...)` must be 'least_norm' for sparse programmes.\n"
            f"Got {degenerate!r}.\nPass dense arrays for the others."
        )
    given = prepare("qp", P, q, A, b, G, h, lb, ub)
    linear: Any = given[1]
    return _qp(given, _placed(solver, linear.dtype), how, throw)


def _placed(solver, dtype):
    """The solver with its backend chosen; not later: the choice is a key of compilation."""
    if not isinstance(solver, InteriorPoint) or solver.backend is not None:
        return solver
    backend = "julia" if in_julia(dtype) else "jax"
    return InteriorPoint(solver.rtol, solver.max_steps, backend)


def _qp(given, solver, how, throw) -> QPSolution:
    # Two programs: the first has no derivative, so that eager transforms share it.
    found = _optimum(stop_gradient(given), solver, throw)
    return _answer(given, found, solver, how, throw)


class Optimum(NamedTuple):
    """What the solve found, without derivatives."""

    point: tuple
    status: jax.Array
    steps: jax.Array
    best: Polished


@eqx.filter_jit
def _optimum(given, solver, throw) -> Optimum:
    problem = _programme(given, solver)
    if isinstance(solver, Clarabel):
        point, status, steps, best = sparse_optimum(problem, solver)
    else:
        point, status, steps, best = _dense_optimum(problem, solver)
    status = _screened(problem, status)
    z, sets = _split_pinned(problem, best.z, best.sets)
    best = best._replace(z=z, sets=sets)
    point = _rays(point, (best.x, best.y, z), status)
    if throw:
        point = fail_unless_zero(point, status, messages("qp"))
    return Optimum(point, status, steps, best)


def _programme(given, solver) -> QP:
    return sparse_programme(given) if isinstance(solver, Clarabel) else programme(*given)


def _dense_optimum(problem: QP, solver: InteriorPoint):
    rtol = float(jnp.finfo(problem.q.dtype).eps) ** 0.55
    rtol = rtol if solver.rtol is None else solver.rtol
    if solver.backend == "julia":
        return julia_optimum(problem, rtol, solver.max_steps)
    hat, scale = scaled(problem)
    it = interior_point(hat, rtol, solver.max_steps)
    P = problem.P
    shift = indefinite_below(P.dtype) * jnp.max(jnp.abs(P), initial=0.0)
    shift = shift + jnp.finfo(P.dtype).tiny ** 0.5
    L = cholesky(P + shift * jnp.eye(len(P), dtype=P.dtype))
    definite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves(L)]))
    status = jnp.where(definite, it.status, jnp.int32(Status.not_positive_definite))
    point = scale.unscale(it.x, it.y, it.z)
    best = polish(problem, *point, it.z > it.s, status == Status.converged)
    return point, status, it.steps, best


@eqx.filter_jit
def _answer(given, found: Optimum, solver, how, throw) -> QPSolution:
    problem, best = _programme(given, solver), found.best
    there: Any = found.status == Status.converged
    x, y, z = differentiable(how, problem, found.point, best.sets, best.L, there, throw)
    value = x @ product(problem.P, x) / 2 + problem.q @ x
    value = borrow(_value(value, found.status), value, there)
    z_G, z_lb, z_ub = problem.C.split(z)
    stats = {"iterations": found.steps, "residual": best.error, "polished": best.polished}
    return QPSolution(
        x, y, z_G, z_lb, z_ub, value, found.status, stats, problem, best.sets
    )  # fmt: skip


def _split_pinned(problem: QP, z, sets: Sets):
    """Where lb = ub, the side that the multiplier's sign names is the active one."""
    if not (problem.C.lower and problem.C.upper):
        return z, sets
    m, n = problem.C.shape
    pinned, nu = problem.fixed[m + n :], z[m + n :]
    z = z.at[m + n :].set(jnp.where(pinned, jnp.maximum(nu, 0.0), nu))
    z = z.at[m : m + n].set(jnp.where(pinned, jnp.maximum(-nu, 0.0), z[m : m + n]))
    active = sets.active.at[m : m + n].set((pinned & (nu < 0)) | sets.active[m : m + n])
    active = active.at[m + n :].set(active[m + n :] & ~(pinned & (nu < 0)))
    return z, Sets(active, sets.weak)


def _screened(problem: QP, status):
    """The status, after a look at what was given."""
    arrays = jax.tree.leaves((problem.P, problem.q, problem.A, problem.b, problem.C.G))
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(a)) for a in arrays]))
    finite = finite & jnp.all(problem.d > -jnp.inf)  # false for NaN
    return jnp.where(finite, status, jnp.int32(Status.nonfinite))


def _check_solver(solver, sparse: bool) -> None:
    if not isinstance(solver, InteriorPoint | Clarabel):
        raise TypeError(
            "`qp(solver=...)` must be pi.InteriorPoint(...) or pi.Clarabel(...).\n"
            f"Got {solver!r}.\nLeave it out for a choice by how P, A and G are stored."
        )
    if sparse and isinstance(solver, InteriorPoint):
        raise TypeError(
            "`qp(solver=InteriorPoint())` takes arrays.\nGot a SparseOperator.\n"
            "Use pi.Clarabel(), or convert by operator.as_matrix()."
        )


def _rays(point, answer, status):
    """The answer; of a programme that has none, the ray that says so, and NaN."""
    x, y, z = point
    top = lambda v: jnp.max(jnp.abs(v), initial=jnp.finfo(v.dtype).tiny)
    size = jnp.maximum(top(y), top(z))
    infeasible, unbounded = status == Status.infeasible, status == Status.unbounded
    failed = status != Status.converged
    put = lambda v, on, ray: jnp.where(failed, jnp.where(on, ray, jnp.nan), v)
    on = unbounded, infeasible, infeasible
    rays = x / top(x), y / size, z / size
    return tuple(map(put, answer, on, rays))


def _value(value, status):
    value = jnp.where(status == Status.converged, stop_gradient(value), jnp.nan)
    value = jnp.where(status == Status.infeasible, jnp.inf, value)
    return jnp.where(status == Status.unbounded, -jnp.inf, value)
