"""Convex quadratic programmes as layers."""

import functools
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .. import engine
from .._status import Status
from .._tree import stop_gradient
from ..engine.failure import fail_unless_zero
from ..implicit import borrow
from ..linear.operator import SparseOperator
from .cone_host import Clarabel
from .in_parts import in_parts
from .matrices import product
from .messages import messages
from .qp_check import definite, prepare
from .qp_data import QP, dense, programme, scaled
from .qp_degenerate import Degenerate, differentiable, policy
from .qp_interior import RUNNING, Given, advanced, ended, start
from .qp_julia import in_julia, julia_optimum, julia_refined
from .qp_kkt import PSEUDO, KKTSolver, Sets, refined
from .qp_polish import ROUNDS, Polished, polish
from .qp_sparse import judged, sparse_optimum, sparse_programme


class InteriorPoint(eqx.Module):
    """A primal-dual interior point method, then an exact step on the active set, which is
    first tried early.

    `rtol`: relative accuracy of the interior point; what follows it is exact to about 1e-10
    (1e-5 in single precision). `max_steps`: at most. `backend`: "julia", over threads, for
    arrays and, in double precision, `SparseOperator`s; "jax", compiled by XLA, for arrays;
    by default Julia on the CPU where it is the engine.
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
    init: QPSolution | None = None,
    throw: bool = True,
) -> QPSolution:
    r"""Solves  min ½ xᵀP x + qᵀx  subject to  A x = b,  G x ≤ h,  lb ≤ x ≤ ub.

    **Arguments:**

    - `P`: `(n, n)`, positive semidefinite; of a non-symmetric P the symmetric part counts.
    - `q`: `(n,)`.
    - `A`, `b`: `(p, n)`, `(p,)`; rows may depend on each other.
    - `G`, `h`: `(m, n)`, `(m,)`; an infinite h is no constraint.
    - `lb`, `ub`: `(n,)` or numbers; infinite: no bound; equal: a fixed unknown.
    - `solver`: `pi.InteriorPoint(...)`, batched in Julia or in JAX, or `pi.Clarabel(...)`
      on the CPU, in double precision. By default the first, and Clarabel for
      `SparseOperator`s (any of P, A, G; P may be None) where Julia is not the engine.
    - `degenerate`: what the derivative is where there is none in the usual sense:
      "least_norm": the pseudo-inverse of the linearised optimality conditions (for one
      weakly active bound on a unit Hessian: the mean of the one-sided derivatives);
      "one_sided": in forward mode the directional derivative, by a quadratic programme for
      the tangent; reverse mode is an error at a kink; "smoothed", or `pi.Smoothed(mu)`:
      the derivative of the central path at slack times multiplier = mu. (The last two
      make dense matrices, of at most 2000 unknowns and rows.)
    - `init`: the solution of a programme like this one. If few rows become active or cease
      to be, steps on the active set alone lead to the new solution; else it costs little
      and changes nothing. Not differentiated; Clarabel makes no use of it.
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
    how = policy("qp", degenerate)
    given = prepare("qp", P, q, A, b, G, h, lb, ub)
    solver = _placed(solver, given)
    start = None if init is None else _start(init, given)
    # Two programs: the first has no derivative, so that eager transforms share it.
    fixed, start = stop_gradient((given, start))
    found = _optimum(fixed, start, solver, throw)
    refine = julia_refined if getattr(solver, "backend", "") == "julia" else refined
    return _answer(given, found, how, refine, throw)


def _placed(solver, given):
    """The solver with its backend chosen; not later: the choice is a key of compilation."""
    linear: Any = given[1]
    sparse, julia = _is_sparse(given), in_julia(linear.dtype)
    if sparse:
        julia = julia and linear.dtype == jnp.float64
    if solver is None:
        solver = Clarabel() if sparse and not julia else InteriorPoint()
    if isinstance(solver, Clarabel):
        return solver
    if not isinstance(solver, InteriorPoint):
        raise TypeError(
            "`qp(solver=...)` must be pi.InteriorPoint(...) or pi.Clarabel(...).\n"
            f"Got {solver!r}.\nLeave it out for a choice by how P, A and G are stored."
        )
    backend = solver.backend or ("julia" if julia else "jax")
    if sparse and backend == "jax":
        raise TypeError(
            "`qp(solver=InteriorPoint())` takes arrays, or SparseOperators in Julia.\n"
            "Got a SparseOperator, and no Julia for it.\n"
            "Use pi.Clarabel(), or convert by operator.as_matrix()."
        )
    if backend == "julia" and not julia:
        raise ValueError(
            "`InteriorPoint(backend='julia')` needs the engine 'julia' and the CPU.\n"
            f"Got the engine {engine.current()!r}, arrays of {linear.dtype}.\n"
            "Run `pyimplicit doctor`, or leave the backend out."
        )
    return InteriorPoint(solver.rtol, solver.max_steps, backend)


def _is_sparse(given) -> bool:
    return any(isinstance(M, SparseOperator) for M in given)


def _start(init: QPSolution, given):
    """(x, y, z) of a neighbour's solution, in the stacked form."""
    _, q, _, b, _, h, lb, ub = given
    for name, size in (("x", q), ("y", b), ("z", h)):
        if not isinstance(init, QPSolution) or getattr(init, name).shape != size.shape:
            raise ValueError(
                "`qp(init=...)` must be the solution of a programme of the same shape.\n"
                f"Got {getattr(init, name, init)!r} for {name}, where {size.shape} is "
                "needed.\nLeave it out for a cold start."
            )
    pinned = lb == ub if lb is not None and ub is not None else jnp.zeros(q.shape, bool)
    force = jnp.where(pinned, init.z_ub - init.z_lb, init.z_ub)
    parts = [] if lb is None else [jnp.where(pinned, 0.0, init.z_lb)]
    parts += [] if ub is None else [force]
    z = jnp.concatenate([init.z, *parts])
    return tuple(v.astype(q.dtype) for v in (init.x, init.y, z))


class Optimum(NamedTuple):
    """What the solve found, without derivatives."""

    point: tuple
    status: jax.Array
    steps: jax.Array
    best: Polished


@eqx.filter_jit
def _optimum(given, start, solver, throw) -> Optimum:
    problem = _programme(given)
    if isinstance(solver, Clarabel):
        point, status, steps, best = sparse_optimum(problem, solver)
    else:
        point, status, steps, best = _interior(problem, solver, start)
    if isinstance(problem.P, SparseOperator) or isinstance(solver, Clarabel):
        status = judged(problem, status, best)
    status = _screened(problem, status)
    z, sets = _split_pinned(problem, best.z, best.sets)
    best = best._replace(z=z, sets=sets)
    point = _rays(point, (best.x, best.y, z), status)
    if throw:
        point = fail_unless_zero(point, status, messages("qp"))
    return Optimum(point, status, steps, best)


def _programme(given) -> QP:
    # Numbers that a compiled function closes over: XLA is not to compute with them.
    given = jax.lax.optimization_barrier(given)
    return sparse_programme(given) if _is_sparse(given) else programme(*given)


def _interior(problem: QP, solver: InteriorPoint, start):
    rtol = float(jnp.finfo(problem.q.dtype).eps) ** 0.55
    rtol = rtol if solver.rtol is None else solver.rtol
    if solver.backend == "julia":
        return julia_optimum(problem, rtol, solver.max_steps, start)
    n, p, M = problem.sizes
    alone = functools.partial(_in_jax, max_steps=solver.max_steps)
    solve = in_parts(lambda given: alone(*given), n * (n + p + M))
    return solve((problem, jnp.asarray(rtol, problem.q.dtype), start))


def _in_jax(problem: QP, rtol, init, max_steps: int):
    problem = eqx.tree_at(lambda qp: qp.C, problem, problem.C.both_ways())
    hat, scale = scaled(problem)
    early = jnp.maximum(rtol, float(jnp.finfo(rtol.dtype).eps) ** EARLY)

    def attempt(state):
        """On with the interior point; from near a solution, the step to the exact one."""
        it, _, last, _ = state
        given = Given.of(hat, jnp.where(last, rtol, early))
        it = ended(advanced(given, it, max_steps))
        near = it.status == Status.converged
        point = scale.unscale(it.x, it.y, it.z)
        rounds = jnp.where(last, ROUNDS, 2)
        best = polish(problem, *point, it.z > it.s, near, rounds)
        again = near & ~best.polished & ~last
        on = jnp.where(again, jnp.int32(RUNNING), it.status)
        return it._replace(status=on), best, jnp.array(True), again

    it = start(Given.of(hat, early))
    if init is None:
        cold = jnp.array(True)
        shapes = jax.eval_shape(attempt, (it, None, cold, cold))[1]
        best = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    else:
        best = _from_start(problem, init)
        cold = ~best.polished
        it = it._replace(status=jnp.where(cold, it.status, jnp.int32(Status.converged)))
    state = it, best, jnp.array(False), cold
    it, best, _, _ = jax.lax.while_loop(lambda state: state[3], attempt, state)
    indefinite = jnp.int32(Status.not_positive_definite)
    status = jnp.where(definite(problem.P), it.status, indefinite)
    return scale.unscale(it.x, it.y, it.z), status, it.steps, best


EARLY = 0.32  # of the digits: where the step to the exact solution is tried first


def _from_start(problem: QP, start) -> Polished:
    """Active set steps alone, from the rows that have a multiplier at a neighbour."""
    x, y, z = start
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(v)) for v in start]))
    return polish(problem, x, y, z, z > 0, finite)


@eqx.filter_jit
def _answer(given, found: Optimum, how, refine, throw) -> QPSolution:
    problem, best = _programme(given), found.best
    there: Any = found.status == Status.converged
    small = _as_small(problem) if how != "least_norm" else problem
    solver = KKTSolver(stop_gradient(best.L), refine)
    x, y, z = differentiable(how, small, found.point, best.sets, solver, there, throw)
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


def _as_small(problem: QP) -> QP:
    """With dense matrices, for the derivatives that need them."""
    if isinstance(problem.P, SparseOperator) and sum(problem.sizes) > PSEUDO:
        raise ValueError(
            "`qp(degenerate=...)` must be 'least_norm' for sparse programmes of more than "
            f"{PSEUDO} unknowns and rows.\nGot {sum(problem.sizes)}.\nLeave it out."
        )
    return dense(problem)


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
