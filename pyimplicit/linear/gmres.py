"""GMRES that stops as soon as it is there, for matrices known by their products."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
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
    R: jax.Array  # (m, m): upper triangle, by columns
    g: jax.Array  # (m + 1,): the rotated right-hand side
    Q: jax.Array  # (m + 1, m + 1): the rotations so far
    k: jax.Array
    done: jax.Array


def _cycle(A: Callable, r, size, tol, m: int, steps_left):
    """At most `m` steps of Arnoldi; the correction, and how many products it took."""
    dtype = r.dtype
    tiny = jnp.finfo(dtype).tiny
    eps = jnp.finfo(dtype).eps
    start = _Arnoldi(
        jnp.zeros((m + 1, r.size), dtype).at[0].set(r / jnp.maximum(size, tiny)),
        jnp.eye(m, dtype=dtype),
        jnp.zeros(m + 1, dtype).at[0].set(size),
        jnp.eye(m + 1, dtype=dtype),
        jnp.array(0),
        size <= tol,
    )

    def step(s: _Arnoldi):
        w = A(s.V[s.k])
        length = jnp.linalg.norm(w)
        h = s.V @ w  # rows not yet filled are zero
        w = w - h @ s.V
        again = s.V @ w
        w, h = w - again @ s.V, h + again
        beta = jnp.linalg.norm(w)
        broke = beta <= eps * length
        w = jnp.where(broke, 0.0, w / jnp.where(broke, 1.0, beta))
        column = s.Q @ h.at[s.k + 1].set(jnp.where(broke, 0.0, beta))
        a, b = column[s.k], column[s.k + 1]
        hypot = jnp.sqrt(a * a + b * b)
        lost = hypot <= eps * length  # A is singular on this space
        hypot = jnp.where(lost, 1.0, hypot)
        c, z = jnp.where(lost, 1.0, a / hypot), jnp.where(lost, 0.0, b / hypot)
        column = column.at[s.k].set(jnp.where(lost, 1.0, hypot)).at[s.k + 1].set(0.0)
        g = s.g.at[s.k + 1].set(-z * s.g[s.k]).at[s.k].set(c * s.g[s.k])
        g = jnp.where(lost, g.at[s.k].set(0.0), g)
        p, q = s.Q[s.k], s.Q[s.k + 1]
        Q = s.Q.at[s.k].set(c * p + z * q).at[s.k + 1].set(c * q - z * p)
        return _Arnoldi(
            s.V.at[s.k + 1].set(w),
            s.R.at[:, s.k].set(column[:m]),
            g,
            Q,
            s.k + 1,
            broke | lost | (jnp.abs(g[s.k + 1]) <= tol / 2) | ~jnp.isfinite(beta),
        )

    going = lambda s: ~s.done & (s.k < m) & (s.k < steps_left)
    s = lax.while_loop(going, step, start)
    used = jnp.arange(m) < s.k
    R = jnp.where(used[:, None] & used[None, :], s.R, jnp.eye(m, dtype=dtype))
    y = jax.scipy.linalg.solve_triangular(R, jnp.where(used, s.g[:m], 0.0))
    return y @ s.V[:m], s.k
