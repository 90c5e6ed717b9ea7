"""GMRES that stops as soon as it is there, for matrices known by their products."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax

from .._tree import flatten


class GMRES(lx.AbstractLinearSolver[Any]):
    """Restarted GMRES with right preconditioning, a lineax solver.

    `rtol`, `atol`: it ends when ‖A x - b‖ ≤ atol + rtol ‖b‖ (Euclidean norms).
    `restart`: the size of the Krylov space, hence n · restart numbers of memory.
    `max_steps`: products with A at most. `options`: "preconditioner", a lineax operator
    close to A⁻¹; "y0", a first guess.

    lineax's own GMRES ends only at the end of a cycle and measures each entry by itself;
    the adjoint of an equilibrium often needs ten products, and its right-hand side is
    often zero in most entries.

    Source: Saad, Schultz 1986, doi:10.1137/0907058; orthogonalised twice, Giraud et al.
    2005, doi:10.1007/s00211-005-0615-4.
    """

    rtol: Any
    atol: Any
    restart: int = eqx.field(static=True, default=30)
    max_steps: int = 1000

    def init(self, operator, options):
        if operator.in_size() != operator.out_size():
            raise ValueError(
                "`GMRES` needs a square matrix.\nGot "
                f"{operator.out_size()} x {operator.in_size()}.\nUse lineax's LSMR."
            )
        return operator

    def compute(self, state, vector, options):
        b, unflatten = flatten(vector)
        onto = lambda operator: lambda v: flatten(operator.mv(unflatten(v)))[0]
        A = onto(state)
        M = options.get("preconditioner")
        M = (lambda v: v) if M is None else onto(M)
        x0 = options.get("y0")
        x0 = jnp.zeros_like(b) if x0 is None else flatten(x0)[0]
        tol = self.atol + self.rtol * jnp.linalg.norm(b)
        m = min(self.restart, b.size)

        def going(carry):
            _, r, steps, gained = carry
            return (jnp.linalg.norm(r) > tol) & (steps < self.max_steps) & gained

        def cycle(carry):
            x, r, steps, _ = carry
            size = jnp.linalg.norm(r)
            d, k = _cycle(lambda v: A(M(v)), r, size, tol, m, self.max_steps - steps)
            x_next = x + M(d)
            r_next = b - A(x_next)
            better = jnp.linalg.norm(r_next) < size  # also false for NaN
            keep = lambda new, old: jnp.where(better, new, old)
            return keep(x_next, x), keep(r_next, r), steps + k, better

        start = (x0, b - A(x0) if "y0" in options else b, jnp.array(0), jnp.array(True))
        x, r, steps, _ = lax.while_loop(going, cycle, start)
        there = jnp.linalg.norm(r) <= tol
        ran_out = steps >= self.max_steps
        result = lx.RESULTS.where(
            there,
            lx.RESULTS.successful,
            lx.RESULTS.where(ran_out, lx.RESULTS.max_steps_reached, lx.RESULTS.stagnation),
        )
        return unflatten(x), result, {"num_steps": steps, "max_steps": self.max_steps}

    def transpose(self, state, options):
        return state.transpose(), {k: v.transpose() for k, v in _preconditioner(options)}

    def conj(self, state, options):
        return lx.conj(state), {k: lx.conj(v) for k, v in _preconditioner(options)}

    def assume_full_rank(self) -> bool:
        return True

    def allow_dependent_columns(self, operator) -> bool:  # lineax < 0.1
        return False

    def allow_dependent_rows(self, operator) -> bool:
        return False


def _preconditioner(options):
    return [(k, v) for k, v in options.items() if k == "preconditioner"]


class _Arnoldi(eqx.Module):
    V: jax.Array  # (m + 1, n): orthonormal rows
    R: jax.Array  # (m, m): upper triangle, by rows of its transpose
    g: jax.Array  # (m + 1,): the rotated right-hand side
    Q: jax.Array  # (m + 1, m + 1): the rotations so far
    done: jax.Array
    used: jax.Array  # steps that this sample took


def _cycle(A: Callable, r, size, tol, m: int, steps_left):
    """At most `m` steps of Arnoldi; the correction, and how many products it took.

    Under `vmap` all samples share the counter k, so that row k of V is written in place;
    those that are done keep their small arrays. A loop with a condition for each sample
    would copy V in each step.
    """
    dtype = r.dtype
    eps, tiny = jnp.finfo(dtype).eps, jnp.finfo(dtype).tiny
    start = _Arnoldi(
        jnp.zeros((m + 1, r.size), dtype).at[0].set(r / jnp.maximum(size, tiny)),
        jnp.eye(m, dtype=dtype),
        jnp.zeros(m + 1, dtype).at[0].set(size),
        jnp.eye(m + 1, dtype=dtype),
        (size <= tol) | (steps_left <= 0),
        jnp.array(0),
    )

    def step(carry):
        k, s = carry
        w = A(s.V[k])
        length = jnp.linalg.norm(w)
        w, h = _orthogonal(s.V, w, length)
        beta = jnp.linalg.norm(w)
        broke = beta <= eps * length
        w = jnp.where(broke, 0.0, w / jnp.where(broke, 1.0, beta))
        column = s.Q @ h.at[k + 1].set(jnp.where(broke, 0.0, beta))
        a, b = column[k], column[k + 1]
        hypot = jnp.sqrt(a * a + b * b)
        lost = hypot <= eps * length  # A is singular on this space
        hypot = jnp.where(lost, 1.0, hypot)
        c, z = jnp.where(lost, 1.0, a / hypot), jnp.where(lost, 0.0, b / hypot)
        column = column.at[k].set(hypot).at[k + 1].set(0.0)[:m]
        high, low = jnp.where(lost, 0.0, c * s.g[k]), -z * s.g[k]
        p, q = s.Q[k], s.Q[k + 1]
        keep = lambda new, old: jnp.where(s.done, old, new)
        put = lambda a, i, new: a.at[i].set(keep(new, a[i]))
        used = keep(k + 1, s.used)
        stop = broke | lost | (jnp.abs(low) <= tol / 2) | ~jnp.isfinite(beta)
        return k + 1, _Arnoldi(
            s.V.at[k + 1].set(w),
            put(s.R, k, column),
            put(put(s.g, k, high), k + 1, low),
            put(put(s.Q, k, c * p + z * q), k + 1, c * q - z * p),
            s.done | stop | (used >= steps_left),
            used,
        )

    going = lambda carry: (carry[0] < m) & eqxi.unvmap_any(~carry[1].done)
    _, s = lax.while_loop(going, step, (jnp.array(0), start))
    used = jnp.arange(m) < s.used
    R = jnp.where(used[:, None] & used, s.R.T, jnp.eye(m, dtype=dtype))
    y = jax.scipy.linalg.solve_triangular(R, jnp.where(used, s.g[:m], 0.0))
    return y @ s.V[:m], s.used


def _orthogonal(V, w, length):
    """w without its part in the rows of V (those not yet filled are zero), and the
    coefficients of that part; done twice where little is left of w."""
    h = V @ w
    w = w - h @ V

    def again():
        more = V @ w
        return w - more @ V, h + more

    small = jnp.linalg.norm(w) < 0.1 * length
    w_2, h_2 = lax.cond(eqxi.unvmap_any(small), again, lambda: (w, h))
    return jnp.where(small, w_2, w), jnp.where(small, h_2, h)
