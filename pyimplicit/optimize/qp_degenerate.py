r"""The derivative of a quadratic programme, and what stands for it where there is none.

At a *weakly active* constraint (slack and multiplier both zero) the solution has a kink:
one-sided directional derivatives only. Where active constraints depend on each other their
multipliers are not unique. Three readings:

least norm   weakly active rows drop out of the linearised conditions (z ṡ + s ż = 0 says
             nothing at s = z = 0), and the pseudo-inverse solves what is left.
one-sided    the tangent is itself the solution of a quadratic programme:
                 min ½ẋᵀPẋ + (Ṗx + q̇ + Ȧᵀy + Ċᵀz)ᵀẋ
                 Aẋ = ḃ - Ȧx,  Cẋ = ḋ - Ċx (active),  Cẋ ≤ ḋ - Ċx (weakly active)
             It is not linear in the data's tangent, so there is no transpose of it.
smoothed     s z = μ instead of s z = 0: a smooth map of the data, near the solution's.
"""

from typing import Any, Literal

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import lineax as lx

from .._status import Status
from .._tree import stop_gradient
from ..engine.failure import fail_unless_zero
from ..implicit import Linearisation, attach, borrow
from .matrices import product, tproduct
from .pseudo_inverse import close
from .qp_data import QP, scaled
from .qp_interior import Given, interior_point
from .qp_kkt import KKT, KKTSolver, Sets, condense, refined, residual
from .qp_polish import polish


class Smoothed(eqx.Module):
    """The derivative of the central path, at slack times multiplier = `mu` [units of the
    objective]."""

    mu: Any = 1e-4


Degenerate = Literal["least_norm", "one_sided", "smoothed"] | Smoothed


def policy(name: str, degenerate: Degenerate):
    """The policy named, checked."""
    if degenerate == "smoothed":
        return Smoothed()
    if isinstance(degenerate, Smoothed) or degenerate in ("least_norm", "one_sided"):
        return degenerate
    raise ValueError(
        f"`{name}(degenerate=...)` must be 'least_norm', 'one_sided' or 'smoothed'.\n"
        f"Got {degenerate!r}.\n"
        "If in doubt leave it out; pi.Smoothed(mu) chooses how smooth."
    )


def differentiable(how, problem: QP, point, sets: Sets, solver, valid, throw: bool):
    """`point`, the solution (x, y, z) of `problem`, with its derivatives; those of least
    norm by `solver`."""
    if isinstance(how, Smoothed):
        return _smoothed(how, problem, point, valid, throw)
    one_sided = how == "one_sided"
    solver = OneSided(throw) if one_sided else solver
    F = lambda point, given: residual(point, given, one_sided)
    matrix = lambda _, given: KKT.of(
        given[0], given[1], one_sided
    )  # closes over nothing traced
    return attach(point, F, (problem, sets), _plan(matrix, solver, throw), valid)


def _plan(matrix, solver, throw) -> Linearisation:
    # The solver judges itself: what a pseudo-inverse leaves over is no error.
    return Linearisation(solver, matrix, accept=jnp.inf, throw=throw)


KINK = (
    "pyimplicit.qp(degenerate='one_sided'): a constraint is weakly active, so the "
    "derivative is one-sided and no linear map: it has no transpose. (a) Use forward mode "
    "(jax.jvp); (b) take degenerate='least_norm' or 'smoothed'"
)


class OneSided(lx.AbstractLinearSolver):
    """Solves K v = b with inequalities for the weakly active rows."""

    throw: bool = eqx.field(static=True)

    def init(self, operator, options):
        del options
        return operator, False

    def compute(self, state, vector, options):
        del options
        K, transposed = state
        plain, error = refined(K, condense(K), vector)
        kink = jnp.any(K.weak)
        ok = error <= close(vector.dtype)
        if transposed:
            v, ok = plain, ok & ~kink
            v = fail_unless_zero(v, kink, ("", KINK)) if self.throw else v
        else:
            program = lambda: _sensitivity(K, vector)
            w, solved = jax.lax.cond(
                eqxi.unvmap_any(kink | ~ok), program, lambda: (plain, ok)
            )
            v, ok = jnp.where(kink | ~ok, w, plain), jnp.where(kink | ~ok, solved, ok)
        return v, lx.RESULTS.where(ok, lx.RESULTS.successful, lx.RESULTS.singular), {}

    def transpose(self, state, options):
        K, transposed = state
        return (K, not transposed), options

    def conj(self, state, options):
        return state, options

    def assume_full_rank(self):
        return False


def _sensitivity(K: KKT, b):
    b_x, b_y, b_z = K.split(b)
    problem = QP(K.P, -b_x, K.A, b_y, K.C, b_z, K.weak, K.row & ~K.weak)
    hat, scale = scaled(problem)
    it = interior_point(Given.of(hat, float(jnp.finfo(b.dtype).eps) ** 0.55), 60)
    there = it.status == Status.converged
    best = polish(problem, *scale.unscale(it.x, it.y, it.z), it.z > it.s, there)
    z = jnp.where(K.row, best.z, b_z)
    return jnp.concatenate([best.x, best.y, z]), there


def _smoothed(how: Smoothed, problem: QP, point, valid, throw):
    fixed = stop_gradient(problem)
    hat, scale = scaled(fixed)
    mu = jnp.asarray(how.mu, problem.q.dtype)
    tol = float(jnp.finfo(mu.dtype).eps) ** 0.6
    it = interior_point(Given.of(hat, tol, scale.cost * mu), 60)
    inside = scale.unscale(it.x, it.y, it.z)
    valid = valid & (it.status == Status.converged)
    plan = _plan(_path_matrix, KKTSolver(), throw)
    path = attach(inside, _path_residual, (problem, mu), plan, valid)
    return borrow(point, path, valid)


def _path_residual(point, given):
    """The conditions of the central path, with s = μ/z put in: C x + μ/z = d."""
    x, y, z = point
    problem, mu = given
    r_x = product(problem.P, x) + problem.q
    r_x = r_x + problem.C.tmul(jnp.where(problem.live | problem.fixed, z, 0.0))
    r_x = r_x + tproduct(problem.A, y) if y.size else r_x
    r_y = product(problem.A, x) - problem.b if y.size else y
    s = jnp.where(problem.live, mu / jnp.where(problem.live, z, 1.0), 0.0)
    r_z = problem.C.mul(x) - problem.d + s
    return r_x, r_y, jnp.where(problem.live | problem.fixed, r_z, z)


def _path_matrix(point, given):
    (problem, mu), live = given, given[0].live
    on = live | problem.fixed
    rest = jnp.where(on, 0.0, jnp.ones_like(problem.d))
    diag = jnp.where(live, -mu / jnp.where(live, point[2], 1.0) ** 2, rest)
    return KKT(problem.P, problem.A, problem.C, on, on, jnp.zeros_like(on), diag)
