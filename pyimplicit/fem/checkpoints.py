r"""Reverse mode through many steps with few stored states, by the binomial schedule.

Reverse mode meets the steps last to first, and each needs the state before it. With s
states stored at a time and each step taken at most r + 1 times anew,
C(s + r, s) steps can be reversed, and none can do better (Griewank, Walther 2000, ACM
Trans. Math. Softw. 26, Algorithm 799, doi:10.1145/347837.347846). A plan is made
beforehand: a list of moves, each

    take the state out of a slot, advance it some steps; then either put it into a slot, or
    reverse the step that follows,

and one compiled loop carries them out.

`march` is the loop that is differentiated so. Its tangent is the plain tangent of the
loop, T: (state, params) tangents -> those of the result, put as the solution of the unit
triangular system

    x = b,  y - T x = c      whose transpose is      b̄ = x̄ + Tᵀ ȳ,  c̄ = ȳ,

a `jax.lax.custom_linear_solve`: its solve runs forwards through all steps, its transposed
solve is the plan. So JAX differentiates the loop in both modes, and again.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._tree import stop_gradient


class CheckpointPlan(NamedTuple):
    """How `n_steps` are reversed with `checkpoints` stored states, the first included.

    `advances`: steps taken forward in all, without those of the reversals;
    `recompute_factor`: steps taken forward, with them, over `n_steps` (2 at best: once for
    the value and once to be reversed). `bytes`: of the stored states.
    `moves`: `(m, 4)`: the slot to start from, the step it belongs to, how many steps to
    advance, and the slot to store in, or -1: reverse the next step.
    """

    n_steps: int
    checkpoints: int
    advances: int
    recompute_factor: float
    bytes: int
    moves: np.ndarray
    stored: np.ndarray  # the steps whose states the forward run leaves in slots 0, 1, …


def checkpoint_plan(n_steps: int, checkpoints: int, state_bytes: int = 0) -> CheckpointPlan:
    """The binomial schedule, with what it costs. `state_bytes`: of one state, for `bytes`:
    8 V.size (times 2 for `BDF2`, and for equations of second order) in double precision."""
    for name, number in (("n_steps", n_steps), ("checkpoints", checkpoints)):
        if not isinstance(number, (int, np.integer)) or number < 1:
            raise ValueError(
                f"`checkpoint_plan({name}=...)` must be a positive whole number.\n"
                f"Got {number!r}.\nUse at least 1; None stores every state."
            )
    slots = min(int(checkpoints), int(n_steps))
    moves: list[tuple[int, int, int, int]] = []
    # Segments [begin, end) to be reversed, whose first state is in slot `used` - 1.
    stack = [(0, int(n_steps), 1)]
    while stack:
        begin, end, used = stack.pop()
        here = used - 1
        if end - begin == 1:
            moves.append((here, begin, 0, -1))
        elif used == slots:
            moves += [(here, begin, k, -1) for k in reversed(range(end - begin))]
        else:
            first = _first_part(end - begin, slots - used + 1)
            moves.append((here, begin, first, used))
            stack.append((begin, begin + first, used))
            stack.append((begin + first, end, used + 1))
    table = np.array(moves, np.int32)
    # The forward run stores what the moves before the first reversal would.
    sweep = int(np.argmax(table[:, 3] < 0))
    stored = np.concatenate([[0], np.cumsum(table[:sweep, 2])])
    advances = int(n_steps) + int(table[sweep:, 2].sum())
    factor = (advances + n_steps) / n_steps
    size = slots * int(state_bytes)
    return CheckpointPlan(n_steps, slots, advances, factor, size, table[sweep:], stored)


def _first_part(n: int, slots: int) -> int:
    """Where to store the next state: how many steps of n come before it, if `slots`
    states may be stored, the first of the n among them.

    With β(s, r) = C(s + r, s) and r least with n <= β(s, r), any m in [β(s, r-2),
    β(s, r-1)] with n - m in [β(s-1, r-1), β(s-1, r)] is optimal.
    """
    r = 0
    while math.comb(slots + r, slots) < n:
        r += 1
    before = math.comb(slots + r - 2, slots) if r > 1 else 1
    return max(1, before, n - math.comb(slots - 1 + r, slots - 1))


def march(step: Callable, state, n: int, checkpoints: int | None):
    """`state, out = step(k, state)` for k = 0 … n-1: the last state, and each `out`
    stacked; differentiable with `checkpoints` stored states, or all if `None`.

    `state`: a pytree of floating arrays; `out`: any pytree of arrays. Float arrays that
    `step` closes over are differentiated.
    """
    if checkpoints is None:
        return jax.lax.scan(
            lambda state, k: step(k, state), state, jnp.arange(n, dtype="int32")
        )
    plan = checkpoint_plan(n, checkpoints)
    step = eqx.filter_closure_convert(step, jnp.int32(0), state)

    @eqx.filter_custom_jvp
    def run(state, step):
        return _forward(state, step, plan)

    @run.def_jvp
    def tangent(primals, tangents):
        value, slots = run(*primals)
        varied, fixed = eqx.partition(primals, eqx.is_inexact_array)
        moved = jax.tree.map(_filled, varied, tangents, is_leaf=lambda a: a is None)
        t_value = _Tangent(plan, fixed, varied, stop_gradient(slots))(moved)
        return (value, slots), (t_value, jax.tree.map(jnp.zeros_like, slots))

    return run(state, step)[0]


def _filled(x, t):
    return None if x is None else jnp.zeros_like(x) if t is None else t


def _forward(state, step, plan: CheckpointPlan):
    """The loop, and the states of the steps `plan.stored` in the slots. The last slot
    takes what nobody needs: one is written in each step, without a branch."""
    n, s = plan.n_steps, plan.checkpoints
    place = np.full(n, s, np.int32)
    place[plan.stored] = np.arange(len(plan.stored))

    def body(carry, now):
        state, slots = carry
        k, slot = now
        slots = _put(slots, slot, state)
        state, out = step(k, state)
        return (state, slots), out

    slots = jax.tree.map(lambda a: jnp.zeros((s + 1, *a.shape), a.dtype), state)
    xs = jnp.arange(n, dtype="int32"), jnp.asarray(place)
    (state, slots), out = jax.lax.scan(body, (state, slots), xs)
    return (state, out), slots


class _Tangent(NamedTuple):
    """The tangent of the loop at `varied` (with `fixed`: state and step), as a linear map
    whose transpose follows the plan."""

    plan: CheckpointPlan
    fixed: Any
    varied: Any
    slots: Any

    def run(self, varied):
        """The floating part of the loop's result."""
        state, step = eqx.combine(varied, self.fixed)
        ks = jnp.arange(self.plan.n_steps, dtype="int32")
        result = jax.lax.scan(lambda state, k: step(k, state), state, ks)
        return eqx.filter(result, eqx.is_inexact_array)

    def forwards(self, moved):
        return jax.jvp(self.run, (self.varied,), (moved,))[1]

    def __call__(self, moved):
        add = lambda a, b: jax.tree.map(jnp.add, a, b)
        matvec = lambda z: (z[0], jax.tree.map(jnp.subtract, z[1], self.forwards(z[0])))
        solve = lambda _, b: (b[0], add(b[1], self.forwards(b[0])))
        back = lambda _, z: (add(z[0], self.backwards(z[1])), z[1])
        zero = jax.tree.map(
            lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(self.run, self.varied)
        )
        given = _all_linear((moved, zero), moved)
        return jax.lax.custom_linear_solve(matvec, given, solve, back)[1]

    def backwards(self, ct):
        """The cotangents of `varied`."""
        ct_state, ct_out = ct
        dummy = self.plan.checkpoints
        _, step = eqx.combine(self.varied, self.fixed)

        def advance(k, state):
            return step(k, state)[0]

        def reverse(k, state, cts):
            def at(state, varied):
                _, step = eqx.combine((state, varied), self.fixed)
                return eqx.filter(step(k, state), eqx.is_inexact_array)

            ct_state, ct_step = cts
            _, back = jax.vjp(at, state, self.varied[1])
            out = jax.tree.map(lambda a: a[k], ct_out)
            ct_state, more = back((ct_state, out))
            return ct_state, jax.tree.map(jnp.add, ct_step, more)

        def move(carry, now):
            slots, cts = carry
            slot, begin, count, to = now
            state = jax.tree.map(lambda a: a[slot], slots)
            end = begin + count
            state = jax.lax.fori_loop(begin, end, advance, state)
            slots = _put(slots, to, state)
            keep = lambda k, state, cts: cts
            cts = jax.lax.cond(to == dummy, reverse, keep, end, state, cts)
            return (slots, cts), None

        moves = np.where(self.plan.moves < 0, dummy, self.plan.moves)
        ct_step = jax.tree.map(jnp.zeros_like, self.varied[1])
        carry = self.slots, (ct_state, ct_step)
        (_, cts), _ = jax.lax.scan(move, carry, tuple(jnp.asarray(moves.T)))
        return cts


def _all_linear(tree, moved):
    """`tree`, each leaf with nothing added that depends on `moved`: JAX transposes a
    `custom_linear_solve` only where it takes every right-hand side for linear."""
    leaves = [a for a in jax.tree.leaves(moved) if a.size]
    nothing = sum(jnp.where(False, a.reshape(-1)[0], 0.0) for a in leaves)
    return jax.tree.map(lambda a: a + jnp.asarray(nothing, a.dtype), tree)


def _put(slots, slot, state):
    return jax.tree.map(lambda a, b: a.at[slot].set(b), slots, state)
