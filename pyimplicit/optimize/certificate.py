"""What can be said of a derivative at an optimum: is it one, and how well is it known?"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp

from .._tree import stop_gradient
from .qp import QPSolution
from .qp_data import dense
from .qp_kkt import KKT, KKTSolver
from .qp_polish import sizes
from .qp_strict import shares


LARGEST = 5000


class Certificate(eqx.Module):
    """What `pi.certificate` finds. All but the rows are scalars.

    `active`, `weak`: dicts of booleans by constraint ("G", "lb", "ub"): rows that hold with
    equality, with a positive multiplier or with none. `margin`: the least sum of slack and
    multiplier over all inequalities, each relative to what acts on its unknowns; zero
    where strict complementarity fails, infinite without inequalities. `rows`, `rank`: of
    the active constraints, equalities included; they differ where the constraints depend
    on each other (no LICQ) and multipliers are not unique. `positive`, `flat`: how many
    eigenvalues of the Hessian, reduced to the null space of the active constraints, are
    positive and zero; flat directions make x non-unique. `curvature`: the least of them.
    `residual`: of the optimality conditions. `adjoint_residual`: of a linear solve as
    reverse mode makes it, relative. `differentiable`: whether x and all multipliers are
    differentiable there.
    """

    active: dict[str, jax.Array]
    weak: dict[str, jax.Array]
    margin: jax.Array
    rows: jax.Array
    rank: jax.Array
    positive: jax.Array
    flat: jax.Array
    curvature: jax.Array
    residual: jax.Array
    adjoint_residual: jax.Array
    differentiable: jax.Array


@functools.singledispatch
def certificate(solution) -> Certificate:
    """Says whether the derivative of a solution can be trusted.

    **Arguments:** `solution`: of `pi.qp`, `pi.lp`, not batched; for a batch
    `jax.vmap(pi.certificate)(solution)`.

    **Returns:** a `Certificate`. Where `differentiable` is false the derivative is what
    `degenerate=` says. Dense linear algebra: the cost of a few solves.

    ??? cite "Reference"
        Fiacco, *Introduction to sensitivity and stability analysis in nonlinear
        programming* (1983), Theorem 3.2.2: strict complementarity, LICQ and the
        second-order condition make the solution differentiable.
    """
    raise TypeError(
        "`certificate(solution)` takes the solution of an optimisation layer.\n"
        f"Got {type(solution).__name__}.\nPass what pi.qp or pi.lp returned, not its x."
    )


@certificate.register
def _(solution: QPSolution) -> Certificate:
    n, p, m = solution.programme.sizes
    if n + p + m > LARGEST:
        raise ValueError(
            f"`certificate` makes dense matrices, of at most {LARGEST} unknowns and rows.\n"
            f"Got {n + p + m}.\nLook at solution.stats, and at where solution.z is small."
        )
    return _certificate(solution)


@eqx.filter_jit
def _certificate(solution: QPSolution) -> Certificate:
    problem, sets = stop_gradient((solution.programme, solution.sets))
    problem = dense(problem)
    x, y = solution.x, solution.y
    z = jnp.concatenate(
        [solution.z] + [solution.z_lb] * problem.C.lower + [solution.z_ub] * problem.C.upper
    )
    slack, force = shares(problem, x, y, z, sizes(problem, x).reach)
    total = jnp.abs(slack) + jnp.abs(force)
    margin = jnp.min(jnp.where(problem.live, total, jnp.inf), initial=jnp.inf)
    eye = jnp.eye(x.size, dtype=x.dtype)
    on = (sets.active | sets.weak)[:, None]
    rows = jnp.where(on, jax.vmap(problem.C.mul, 1, 1)(eye), 0.0)
    J = jnp.concatenate([problem.A, rows])
    size = jnp.linalg.norm(J, axis=1, keepdims=True)
    J = J / jnp.where(size > 0, size, 1.0)
    eps = float(jnp.finfo(x.dtype).eps) ** 0.6
    _, s, Vt = jnp.linalg.svd(J, full_matrices=True) if len(J) else (0, jnp.zeros(0), eye)
    s = jnp.zeros(x.size, x.dtype).at[: s.size].set(s)
    null = s <= eps * jnp.max(s, initial=0.0)
    Z = Vt.T * null  # columns span the null space; the others are zero
    H = Z.T @ problem.P @ Z
    top = jnp.max(jnp.abs(problem.P), initial=0.0)
    shift = jnp.where(null, 0.0, 2 * x.size * top + 1.0)  # puts the rest out of the way
    curvature = jnp.linalg.eigvalsh(H + jnp.diag(shift))
    inside = jnp.arange(x.size) < jnp.sum(null)
    positive = jnp.sum(inside & (curvature > eps * top))
    flat = jnp.sum(inside) - positive
    count = jnp.sum(on) + y.size
    rank = x.size - jnp.sum(null)
    K = KKT.of(problem, sets)
    b = jnp.ones(K.in_size(), x.dtype).at[x.size :].set(0.0)
    solver = KKTSolver()
    v, *_ = solver.compute(solver.init(K, {}), b, {})
    adjoint = jnp.linalg.norm(K.mv(v) - b) / jnp.linalg.norm(b)

    def named(v) -> dict[str, jax.Array]:
        G, lb, ub = problem.C.split(v)
        return {"G": G, "lb": lb, "ub": ub}

    unique = (rank == count) & (flat == 0) & ~jnp.any(sets.weak)
    solved = (solution.status == 0) & (adjoint <= eps)
    return Certificate(
        named(sets.active),
        named(sets.weak),
        margin,
        count,
        rank,
        positive,
        flat,
        jnp.where(jnp.any(inside), curvature[0], jnp.inf),
        solution.stats["residual"],
        adjoint,
        unique & solved,
    )
