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
from .lineax_parts import FullRankSolver


class GMRES(FullRankSolver):
    """Restarted GMRES with right preconditioning, a lineax solver.

    `rtol`, `atol`: it ends when ‖A x - b‖ ≤ atol + rtol ‖b‖ (Euclidean norms); if not given
    ε^(2/3) of the precision, and 0.
    `restart`: the size of the Krylov space, hence n · restart numbers of memory.
    `max_steps`: products with A at most. `options`: "preconditioner", a lineax operator
    close to A⁻¹; "y0", a first guess.

    lineax's own GMRES ends only at the end of a cycle and measures each entry by itself;
    the adjoint of an equilibrium often needs ten products, and its right-hand side is
    often zero in most entries.

    Source: Saad, Schultz 1986, doi:10.1137/0907058; orthogonalised twice, Giraud et al.
    2005, doi:10.1007/s00211-005-0615-4.
    """

    rtol: Any = None
    atol: Any = 0.0
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
        rtol = float(jnp.finfo(b.dtype).eps) ** (2 / 3) if self.rtol is None else self.rtol
        tol = self.atol + rtol * jnp.linalg.norm(b)
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


def _preconditioner(options):
    return [(k, v) for k, v in options.items() if k == "preconditioner"]


class _Arnoldi(eqx.Module):
    V: jax.Array  # (m + 1, n): orthonormal rows
    H: jax.Array  # (m, m + 1): A V[k] = H[k] @ V
    nu: jax.Array  # (m + 1,): of V @ residual, up to a factor; orthogonal to the rows of H
    done: jax.Array
    used: jax.Array  # steps that count for this sample


def _cycle(A: Callable, r, size, tol, m: int, steps_left):
    r"""At most `m` steps of Arnoldi; the correction, and how many products it took.

    The least-squares residual V ρ is orthogonal to all A V[k], so ρ = ‖r‖ ν/‖ν‖² with
    H ν = 0, ν₀ = 1: each step gives one more entry of ν, and ‖ρ‖ = ‖r‖/‖ν‖. What is left
    of H y = ‖r‖ e₀ - ρ without its first row is triangular (Ayachour 2003,
    doi:10.1016/S0377-0427(03)00534-X).

    Under `vmap` all samples share the counter k, so that row k of V is written in place. A
    loop with a condition for each sample would copy V in each step.
    """
    dtype = r.dtype
    eps, tiny = jnp.finfo(dtype).eps, jnp.finfo(dtype).tiny
    start = _Arnoldi(
        jnp.zeros((m + 1, r.size), dtype).at[0].set(r / jnp.maximum(size, tiny)),
        jnp.zeros((m, m + 1), dtype),
        jnp.zeros(m + 1, dtype).at[0].set(1.0),
        (size <= tol) | (steps_left <= 0),
        jnp.array(0),
    )

    def step(carry):
        k, s = carry
        w = A(s.V[k])
        length = jnp.linalg.norm(w)
        w, h = _orthogonal(s.V, w, length)
        beta = jnp.linalg.norm(w)
        small = jnp.maximum(eps * length, tiny)
        # Then the space is closed: the solution is in it, or A is singular.
        broke = beta <= small
        w = jnp.where(broke, 0.0, w / jnp.where(broke, 1.0, beta))
        beta = jnp.maximum(beta, small)
        slope, norm = s.nu @ h, jnp.linalg.norm(s.nu)
        lost = broke & (jnp.abs(slope) <= small * norm)
        nu = s.nu.at[k + 1].set(-slope / beta)
        used = jnp.where(s.done | lost, s.used, k + 1)
        there = size <= tol / 2 * jnp.linalg.norm(nu)
        stop = broke | there | ~jnp.isfinite(beta) | (used >= steps_left)
        H = s.H.at[k].set(h.at[k + 1].set(beta))
        return k + 1, _Arnoldi(s.V.at[k + 1].set(w), H, nu, s.done | stop, used)

    going = lambda carry: (carry[0] < m) & eqxi.unvmap_any(~carry[1].done)
    _, s = lax.while_loop(going, step, (jnp.array(0), start))
    nu = jnp.where(jnp.arange(m + 1) <= s.used, s.nu, 0.0)
    used = jnp.arange(m) < s.used
    R = jnp.where(used[:, None] & used, s.H[:, 1:].T, jnp.eye(m, dtype=dtype))
    y = jax.scipy.linalg.solve_triangular(R, -nu[1:] * (size / jnp.sum(nu * nu)))
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
