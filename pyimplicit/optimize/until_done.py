"""A loop over a batch whose members need different numbers of steps.

A vmapped `while_loop` steps the whole batch until its slowest member is done. Of ten
thousand programmes most need seven steps and one needs twenty. Here, once a quarter of the
batch is left, that quarter is moved together and goes on alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


WORTH = 64  # the smallest batch to divide
PART = 4


def until_done(step: Callable, running: Callable, max_steps: int) -> Callable:
    """`loop(given, state)`: the state after `step(given, state)` as often as
    `running(state)` says so, `max_steps` times at most (`state.steps` counts them).

    No derivative; under `vmap` each sample's result is that of the sample alone.
    """
    going = lambda state: running(state) & (state.steps < max_steps)

    def alone(given, state):
        return jax.lax.while_loop(going, lambda state: step(given, state), state)

    loop = custom_vmap(alone)

    @loop.def_vmap
    def together(size, batched, given, state):
        axes, state_axes = jax.tree.map(lambda b: 0 if b else None, batched)
        spread = lambda a, axis: a if axis == 0 else jnp.broadcast_to(a, (size, *a.shape))
        state = jax.tree.map(spread, state, state_axes)
        everything = jax.tree.map(lambda _: True, state)
        if size < WORTH:
            return jax.vmap(alone, (axes, 0))(given, state), everything
        part = size // PART

        def all_step(state):
            on = jax.vmap(going)(state)
            new = jax.vmap(step, (axes, 0))(given, state)
            pick = lambda a, b: jnp.where(on.reshape(-1, *[1] * (a.ndim - 1)), a, b)
            return jax.tree.map(pick, new, state)

        def some_finish(state):
            left = jnp.argsort(~jax.vmap(going)(state))[:part]
            take = lambda a, axis: a[left] if axis == 0 else a
            few = jax.tree.map(take, given, axes)
            done = jax.vmap(alone, (axes, 0))(few, jax.tree.map(lambda a: a[left], state))
            return jax.tree.map(lambda a, b: a.at[left].set(b), state, done)

        count = lambda state: jnp.sum(jax.vmap(going)(state))
        state = jax.lax.while_loop(lambda s: count(s) > part, all_step, state)
        state = jax.lax.while_loop(lambda s: count(s) > 0, some_finish, state)
        return state, everything

    return loop
