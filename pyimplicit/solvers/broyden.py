"""Broyden's quasi-Newton methods with limited memory."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx

from .._tree import stop_gradient
from ..linear.jacobian import Jacobian, check_jacobian
from .newton import corrected, linear_solver, stored_jacobian, vectors
from .options import check_count, check_linear_solver, check_safeguard
from .tolerance import length, scaled_size, where


class BroydenState(eqx.Module):
    start: Any  # J₀ and its factors, or the number a of J₀ = a I
    v: jax.Array  # (n,): where F was last evaluated and not rejected
    p: jax.Array  # (n,): J₀⁻¹F there
    S: jax.Array  # (m, n): changes of v, divided by the length of L's row
    Q: jax.Array  # (m, n): the changes of p that go with them
    LL: jax.Array  # (m, m): L Lᵀ, where L is S (good) or Q (bad)
    LQ: jax.Array  # (m, m): L Qᵀ
    age: jax.Array  # (m,): the step at which a row was written, 0 if empty
    steps: jax.Array
    best: tuple[jax.Array, jax.Array]  # v and p where ‖p‖ was smallest
    lowest: jax.Array  # that ‖p‖
    part: jax.Array  # of the step, after restarts
    there: jax.Array  # the first guess seems to be a root
    done: jax.Array
    result: optx.RESULTS


class Broyden(optx.AbstractRootFinder):
    r"""Broyden's method with limited memory: an optimistix root finder.

    z ← z - H F(z), one evaluation of F a step and no derivatives. H belongs to the J₀ of
    the start, updated with the last `memory` pairs of changes s of z and q of J₀⁻¹F: the
    least change of the Jacobian that agrees with a pair (`good`), or of its inverse.

    **Arguments:**

    - `rtol`, `atol`: of z, ε^0.6 of its precision if not given. It ends when HF is within
      tolerance, and so is the error that the last step left over, as seen by how much
      ‖F‖ fell along it: the model alone may be wrong.
    - `memory`: m, at most 2n. 2mn + O(n + m²) numbers are kept: 16mn bytes in double
      precision. Linear equations need 2n evaluations if m is as large.
    - `good`: Broyden's first ("good") or second ("bad") update.
    - `jacobian`: J₀, the Jacobian of the first guess stored in one of the ways of `root`,
      or a function (z, params) that returns something close to it; factored once. It is
      also taken from `pi.root(jacobian=...)`. By default J₀ = a I, with a sign and size
      from one difference of F (two evaluations).
    - `linear_solver`: for J₀, a lineax solver; by default one that suits it.
    - `safeguard`: when ‖J₀⁻¹F‖ exceeds this many times its lowest value, or is not finite,
      z goes back to where it was lowest, the pairs are dropped, and a step with J₀ follows,
      half as long each time until the lowest value falls.

    ??? cite "Reference"
        Broyden, *A class of methods for solving nonlinear simultaneous equations* (1965).
        doi:10.1090/S0025-5718-1965-0198670-6. Compact form: Byrd, Nocedal, Schnabel,
        *Representations of quasi-Newton matrices and their use in limited memory methods*
        (1994), Theorem 6.1. doi:10.1007/BF01582063. 2n steps: Gay 1979,
        doi:10.1137/0716047.
    """

    rtol: Any = None
    atol: Any = None
    memory: int = eqx.field(static=True, default=20)
    good: bool = eqx.field(static=True, default=True)
    jacobian: Jacobian = None
    linear_solver: lx.AbstractLinearSolver | None = None
    safeguard: Any = 1e3
    norm: Callable = optx.rms_norm

    def __check_init__(self):
        check_count(self, "memory")
        check_safeguard(self)
        check_jacobian(self.jacobian, "Broyden")
        check_linear_solver(self)

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        v, _, along = vectors(fn, y, args)
        if self.jacobian is None and options.get("jacobian") is None:
            start = _scale(lambda v: along(v)[0], v)
        else:
            _, matvec, _ = jax.linearize(along, v, has_aux=True)
            operator = stored_jacobian(self, matvec, v, y, args, options, tags)
            factors = linear_solver(self, operator).init(operator, {})
            start = operator, stop_gradient(factors)
        m = min(self.memory, 2 * v.size)
        pairs, square = jnp.zeros((m, v.size), v.dtype), jnp.zeros((m, m), v.dtype)
        zero, infinite = jnp.zeros_like(v), jnp.asarray(jnp.inf, v.dtype)
        return BroydenState(
            start=start, v=v, p=zero, S=pairs, Q=pairs, LL=square, LQ=square,
            age=jnp.zeros(m, int), steps=jnp.array(0), best=(v, zero), lowest=infinite,
            part=jnp.ones((), v.dtype), there=jnp.array(False),
            done=jnp.array(False), result=optx.RESULTS.successful,
        )  # fmt: skip

    def _solve(self, start, f):
        """J₀⁻¹f, NaN where J₀ has none; and what became of it."""
        if not isinstance(start, tuple):
            return f / start, optx.RESULTS.successful
        operator, factors = start
        p, result = corrected(operator, f, linear_solver(self, operator), factors)
        return jnp.where(result == optx.RESULTS.successful, p, jnp.nan), result

    def step(self, fn, y, args, options, state, tags):
        v, unflatten, along = vectors(fn, y, args)
        f, aux = along(v)
        p, result = self._solve(state.start, f)
        size = length(p)
        first = jnp.isinf(state.lowest)
        good = jnp.isfinite(size) & (size <= self.safeguard * state.lowest)
        improved = good & (size < state.lowest)
        s, q = v - state.v, p - state.p
        S, Q, LL, LQ, age, steps = self._remembered(state, s, q, good & ~first)

        best = where(improved, (v, p), state.best)
        v, p = where(good, (v, p), best)
        part = jnp.where(improved, 1.0, jnp.where(good, state.part, state.part / 2))
        d = _direction(S, Q, S if self.good else Q, LL, LQ, age, p)
        regular = jnp.all(jnp.isfinite(d))
        d = jnp.where(regular, d, -p)  # where the pairs make the Jacobian singular
        age = jnp.where(regular, age, 0)

        # The error by the model, and by what the last step really did: it left Θ of F, so
        # that Θ/(1-Θ) ‖s‖ is left of z. From a root Θ is round-off and says nothing.
        eps = float(jnp.finfo(v.dtype).eps)
        rate = size / length(state.p)
        left = jnp.where(
            rate < 1 - eps**0.5, scaled_size(self, s, v) * rate / (1 - rate), jnp.inf
        )
        confirmed = ~first & ((left <= 1) | state.there) & (size <= 2 * state.lowest)
        done = good & (scaled_size(self, d, v) <= 1) & confirmed
        there = first & (scaled_size(self, p, v) <= 1)
        failed = optx.RESULTS.where(
            part < eps,
            optx.RESULTS.nonlinear_divergence,
            optx.RESULTS.successful,
        )
        unusable = optx.RESULTS.where(
            result == optx.RESULTS.successful, optx.RESULTS.nonfinite, result
        )
        result = optx.RESULTS.where(first & ~good, unusable, failed)
        state = BroydenState(
            start=state.start, v=v, p=p, S=S, Q=Q, LL=LL, LQ=LQ, age=age, steps=steps,
            best=best, lowest=jnp.where(improved, size, state.lowest), part=part,
            there=there, done=done | (length(f) == 0), result=result,
        )  # fmt: skip
        return unflatten(v + part * d), state, aux

    def _remembered(self, state, s, q, kept):
        """The pairs with (s, q) in place of the oldest; none, if they are not `kept`."""
        change = length(s if self.good else q)
        new = kept & (change > 0)
        scale = jnp.where(new, 1 / jnp.where(new, change, 1.0), 0.0)
        steps = state.steps + new
        here = (jnp.arange(state.age.size) == state.steps % state.age.size) & new
        S = jnp.where(here[:, None], scale * s, state.S)
        Q = jnp.where(here[:, None], scale * q, state.Q)
        L, l = (S, scale * s) if self.good else (Q, scale * q)
        products = L @ jnp.stack([l, scale * q], axis=1)
        row, column = here[:, None], here
        LL = jnp.where(column, products[:, :1], state.LL)
        LL = jnp.where(row, products[:, 0], LL)
        LQ = jnp.where(column, products[:, 1:], state.LQ)
        LQ = jnp.where(row, Q @ l, LQ)
        age = jnp.where(kept, jnp.where(here, steps, state.age), 0)
        return S, Q, LL, LQ, age, steps

    def terminate(self, fn, y, args, options, state, tags):
        return state.done, state.result

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}


def _direction(S, Q, L, LL, LQ, age, p):
    """-H p with H = I + (S - Q)ᵀ K⁻¹ L and K = L Qᵀ - (the part of L Lᵀ in which the row
    is newer than the column): identity updated pair after pair, oldest first.

    With K no row depends on older ones, so that dropping the oldest pair leaves exactly
    the update with the others (chains of u vᵀ built on it would be wrong). For L = Q, K is
    the triangle of Q Qᵀ. From Theorem 6.1 with B₀ = I and the Woodbury identity.
    """
    used = age > 0
    newer = age[:, None] > age
    K = LQ - jnp.where(newer, LL, 0.0)
    K = jnp.where(used[:, None] & used, K, jnp.eye(age.size, dtype=p.dtype))
    c = jnp.linalg.solve(K, jnp.where(used, L @ p, 0.0))
    return -(p + c @ S - c @ Q)


def _scale(F, v):
    """a with a d of the sign and size of J d, d along F(v): by one difference."""
    f = F(v)
    size = length(f)
    size = jnp.where(size > 0, size, 1.0)
    step = float(jnp.finfo(v.dtype).eps) ** 0.5 * jnp.maximum(length(v), 1.0)
    d = f * (step / size)
    rise = F(v + d) - f
    square = jnp.sum(rise * rise)
    usable = jnp.isfinite(square) & (square > 0)
    a = jnp.sqrt(jnp.where(usable, square, 1.0)) / step
    return jnp.where(usable, jnp.copysign(a, jnp.sum(rise * d)), -1.0)
