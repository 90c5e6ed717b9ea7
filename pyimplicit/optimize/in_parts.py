"""A large batch in parts that fit the processor's cache.

XLA runs a vmapped solve operation by operation over the whole batch: each operation reads
all matrices from memory again, and all samples wait for the slowest. In parts the matrices
stay in the cache, and each part stops by itself.
"""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


CACHE = 80_000  # numbers of the data for each core


def in_parts(solve: Callable, numbers: int) -> Callable:
    """`solve(given)`, under `vmap` on a CPU of a part of the batch at a time. `numbers`:
    how many one sample has. No derivative."""
    at_once = max(1, CACHE * (os.cpu_count() or 1) // max(numbers, 1))
    run = custom_vmap(solve)

    @run.def_vmap
    def batch(size, batched, given):
        (axes,) = jax.tree.map(lambda b: 0 if b else None, batched)
        together = jax.vmap(solve, (axes,))
        if size <= at_once or jax.default_backend() != "cpu":
            out = together(given)
            return out, jax.tree.map(lambda _: True, out)
        count = -(-size // at_once)
        part = -(-size // count)

        def one(_, at):
            cut = lambda a, axis: (
                jax.lax.dynamic_slice_in_dim(a, at, part) if axis == 0 else a
            )
            return None, together(jax.tree.map(cut, given, axes))

        # The last part reaches back into the one before where they do not divide the batch.
        begin = jnp.minimum(part * jnp.arange(count), size - part)
        _, out = jax.lax.scan(one, None, begin)
        again = part * count - size
        join = lambda a: jnp.concatenate([a[:-1].reshape(-1, *a.shape[2:]), a[-1, again:]])
        whole = lambda a: a.reshape(size, *a.shape[2:])
        out = jax.tree.map(join if again else whole, out)
        return out, jax.tree.map(lambda _: True, out)

    return run
