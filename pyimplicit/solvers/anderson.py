"""Anderson acceleration of a fixed-point iteration."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx

from .._tree import flatten, ravel
from .options import check_count, check_damping, check_safeguard
from .tolerance import length, scaled_size, where


class AndersonState(eqx.Module):
    v: jax.Array  # (n,): where f was last evaluated and not rejected
    g: jax.Array  # (n,): f(v) - v
    dG: jax.Array  # (m, n): changes of g, of unit length; zero where not yet filled
    dS: jax.Array  # (m, n): the changes of v + β g that go with them
    gram: jax.Array  # (m, m): of the rows of dG
    used: jax.Array  # (m,): which rows hold a change
    slot: jax.Array  # the row to write next
    best: tuple[jax.Array, jax.Array]  # v and g where ‖g‖ was smallest
    lowest: jax.Array  # that ‖g‖
    part: jax.Array  # of the damped step, after restarts
    plain: jax.Array  # steps without mixing yet to do
    size: jax.Array  # of g, in units of the tolerance


class Anderson(optx.AbstractFixedPointSolver):
    r"""Anderson acceleration (type II): an optimistix fixed-point solver.

    With g = f(z) - z and the last `memory` changes ΔG, ΔZ, one evaluation a step:
    γ = argmin ‖g - ΔG γ‖, z ← z + β (g - ΔG γ) - ΔZ γ. On a linear map with `memory` ≥ n
    these are the iterates of GMRES, done after n + 1 evaluations (and one to see it), also
    where Picard diverges.

    **Arguments:**

    - `rtol`, `atol`: it ends when f(z) - z is within tolerance; by default ε^0.6 of the
      precision. The value is the step taken from there, which costs no evaluation.
    - `memory`: m. An (m, n) pair of histories is kept.
    - `damping`: β in (0, 1].
    - `regularization`: of the least-squares problem, relative to its columns; 50 ε if not
      given. Directions of ΔG below √(that) are left out.
    - `safeguard`: when ‖g‖ exceeds this many times its lowest value, or is not finite, z
      goes back to where it was lowest, the history is cleared, and a step βg follows, half
      as long each time until the lowest value falls.
    - `start`: steps without mixing at the start.

    ??? cite "Reference"
        Anderson 1965, doi:10.1145/321296.321305. Walker, Ni 2011, doi:10.1137/10078356X,
        Theorem 2.2. Safeguard by restarts as in Zhang, O'Donoghue, Boyd 2020,
        doi:10.1137/18M1232772, but measured from the best iterate.
    """

    rtol: Any = None
    atol: Any = None
    memory: int = eqx.field(static=True, default=5)
    damping: Any = 1.0
    regularization: Any = None
    safeguard: Any = 1e3
    start: int = eqx.field(static=True, default=1)
    norm: Callable = optx.rms_norm

    def __check_init__(self):
        check_count(self, "memory")
        check_damping(self)
        check_safeguard(self)

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        v = ravel(y)
        zero, infinite = jnp.zeros_like(v), jnp.asarray(jnp.inf, v.dtype)
        m = min(self.memory, v.size)
        history = jnp.zeros((m, v.size), v.dtype)
        return AndersonState(
            v=zero, g=zero, dG=history, dS=history, gram=jnp.zeros((m, m), v.dtype),
            used=jnp.zeros(m, bool),
            slot=jnp.array(0), best=(v, zero), lowest=infinite,
            part=jnp.ones((), v.dtype), plain=jnp.array(self.start), size=infinite,
        )  # fmt: skip

    def step(self, fn, y, args, options, state, tags):
        f, aux = fn(y, args)
        v, unflatten = flatten(y)
        g = ravel(f).astype(v.dtype) - v
        size = length(g)
        good = jnp.isfinite(size) & (size <= self.safeguard * state.lowest)
        improved = good & (size < state.lowest)
        best = where(improved, (v, g), state.best)
        v, g = where(good, (v, g), best)
        part = jnp.where(improved, 1.0, jnp.where(good, state.part, state.part / 2))

        beta = jnp.asarray(self.damping, v.dtype)
        dg, dv = g - state.g, v - state.v
        change = length(dg)
        filled = good & jnp.isfinite(state.lowest) & (change > 0)
        scale = jnp.where(filled, 1 / jnp.where(filled, change, 1.0), 0.0)
        m = state.dG.shape[0]
        here = jnp.arange(m) == state.slot
        row, follows = scale * dg, scale * (dv + beta * dg)
        kept = good & state.used & ~here
        used = kept | filled & here
        products = jnp.where(kept[:, None], state.dG @ jnp.stack([row, g], axis=1), 0.0)
        new = jnp.where(here, jnp.where(filled, 1.0, 0.0), products[:, 0])
        b = jnp.where(here, row @ g, products[:, 1])
        gram = jnp.where(here[:, None], new, jnp.where(here, new[:, None], state.gram))
        gram = jnp.where(used[:, None] & used, gram, 0.0)
        gamma = _least_squares(gram, b, self._regularization(v.dtype))
        gamma = jnp.where(state.plain > 0, 0.0, gamma)
        mixed = jnp.where(kept, gamma, 0.0) @ state.dS + gamma[state.slot] * follows
        step = jnp.where(good, beta, beta * part) * g - mixed
        put = lambda new, old: jnp.where(here[:, None], new, old)
        dG, dS = put(row, state.dG), put(follows, state.dS)
        state = AndersonState(
            v=v, g=g, dG=dG, dS=dS, gram=gram, used=used,
            slot=(state.slot + 1) % m,
            best=best, lowest=jnp.where(improved, size, state.lowest), part=part,
            plain=jnp.maximum(state.plain - 1, 0),
            size=jnp.where(good, scaled_size(self, g, v), jnp.inf),
        )  # fmt: skip
        return unflatten(v + step), state, aux

    def terminate(self, fn, y, args, options, state, tags):
        failed = jnp.isinf(state.lowest) & (state.part < 1)  # not even the first guess
        result = optx.RESULTS.where(failed, optx.RESULTS.nonfinite, optx.RESULTS.successful)
        return state.size <= 1, result

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}

    def _regularization(self, dtype):
        given = self.regularization
        return 50 * float(jnp.finfo(dtype).eps) if given is None else given


def _least_squares(gram, b, small):
    """x with gram x = b, for a Gram matrix of columns of unit length or zero."""
    inverse = _inverse(gram + small * jnp.eye(b.size, dtype=b.dtype), small)
    x = inverse @ b
    for _ in range(2):  # takes back what `small` added
        x = x + inverse @ (b - gram @ x)
    return x


def _inverse(A, small):
    """Of a small positive definite matrix, by sweeps; its pivots are at least `small`, so
    that round-off cannot make it fail."""

    def sweep(k, A):
        pivot = jnp.maximum(A[k, k], small)
        row = A[k] / pivot
        A = A - A[:, k, None] * row
        return A.at[k].set(row).at[:, k].set(row).at[k, k].set(-1 / pivot)

    m = A.shape[0]
    if m > 10:  # a loop: written out, they would take long to compile
        return -jax.lax.fori_loop(0, m, sweep, A)
    for k in range(m):
        A = sweep(k, A)
    return -A
