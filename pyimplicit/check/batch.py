"""Samples beside each other: by `jax.vmap`, or in a batch the user has made."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._tree import flatten, ravel
from ..diagnostics import _arrays
from .flat import Flat, floating, reals, sizes


NEAR, FAR = 1e-3, 0.5  # how far samples are moved, relative to the arguments


class Batch:
    """Samples, and their results together and each by itself.

    `rows`: `(k, n)`, the varied numbers of each sample. `together(rows)`: their values
    and gradients, `(k, m)` and `(k, n)`. `alone(i)`: those of one, `(m,)` and `(n,)`.
    `W`: `(k, m)`, the gradients are of <W, f>. `in_sizes`, `out_sizes`: of their leaves.
    """

    def __init__(self, layer: Flat, rows, run: Callable, alone: Callable, leaves: tuple):
        """`run(rows, which)`, `alone(row, i)`: results; `which`: `(k,)`, what to take of
        batched arrays that are not varied."""
        self.rows, (self.in_sizes, self.out_sizes) = rows, leaves
        shape = len(rows), sum(self.out_sizes)
        self.W = _normal(shape).astype(layer.W.dtype)
        which = np.arange(len(rows))
        all_ = lambda rows, W: layer.both(lambda rows: run(rows, which))(rows, W)
        one = lambda row, w, i: layer.both(lambda row: alone(row, i))(row, w)
        all_, one = layer.compile(all_), layer.compile(one)
        self.together = lambda rows: all_(rows, self.W)
        self.alone = lambda i: one(rows[i], self.W[i], np.asarray(i))

    def far(self):
        """`rows`, but all except the first moved by half the size of each argument."""
        mates = self.rows[1:]
        size = np.stack([sizes(row, self.in_sizes) for row in mates])
        move = FAR * np.where(size > 0, size, 1) * _normal(mates.shape)
        return np.concatenate([self.rows[:1], mates + move.astype(mates.dtype)])


def vmapped(layer: Flat) -> Batch:
    """The layer's own arguments and two close to them, by `jax.vmap`."""
    shifts = np.stack([np.zeros_like(layer.x), *layer.V[:2]])
    rows = (layer.x + NEAR * shifts).astype(layer.x.dtype)
    run = lambda rows, which: jax.vmap(layer.f)(rows)
    alone = lambda row, i: layer.f(row)
    return Batch(layer, rows, run, alone, (layer.in_sizes, layer.out_sizes))


def given(layer: Flat, fn: Callable, args: tuple, axes: Any) -> Batch:
    """The batch in `args`, whose axes are `axes`, an integer or None for each argument.

    **Errors:** `ValueError` if the axes, the arguments or the results do not fit.
    """
    leaves, structure = jax.tree.flatten(_arrays(args))
    axis_of = _axis_of_leaves(args, leaves, axes)
    batched = [k for k, axis in enumerate(axis_of) if axis is not None]
    varied = [k for k in batched if eqx.is_inexact_array(leaves[k])]
    lengths = {leaves[k].shape[axis_of[k]] for k in batched}
    if len(lengths) != 1 or not varied or min(lengths) < 2:
        shapes = [leaves[k].shape for k in batched]
        raise _misfit("must be of one length, 2 or more", f"arrays {shapes} along {axes}")
    samples = [jnp.moveaxis(leaves[k], axis_of[k], 0) for k in varied]
    (length,) = lengths
    if any(shape[:1] != (length,) for shape in layer.out_shapes):
        got = f"results {layer.out_shapes} for {length} samples"
        raise _misfit("needs results with the batch in their first axis", got)
    _, unflatten = flatten([leaf[0] for leaf in samples])

    def run(rows, which):
        put = list(leaves)
        for k in batched:  # labels, say, are not varied but belong to their samples
            put[k] = jnp.take(leaves[k], which, axis=axis_of[k])
        for k, leaf in zip(varied, jax.vmap(unflatten)(rows), strict=True):
            put[k] = jnp.moveaxis(leaf, 0, axis_of[k])
        return jax.vmap(ravel)(floating(fn(*jax.tree.unflatten(structure, put))))

    rows = np.asarray(jax.vmap(ravel)(samples))
    alone = lambda row, i: run(row[None], i[None])[0]
    in_sizes = [reals(leaf) // length for leaf in samples]
    out_sizes = [size // length for size in layer.out_sizes]
    return Batch(layer, rows, run, alone, (in_sizes, out_sizes))


def _normal(shape) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def _axis_of_leaves(args: tuple, leaves: list, axes: Any) -> list:
    each = axes if isinstance(axes, tuple) else (axes,) * len(args)
    known = all(axis is None or isinstance(axis, int) for axis in each)
    if len(each) != len(args) or not known:
        raise _misfit(f"must be {len(args)} integers or None, one for each argument", axes)
    counts = [len(jax.tree.leaves(arg)) for arg in args]
    axis_of = [axis for axis, n in zip(each, counts, strict=True) for _ in range(n)]
    is_array = lambda leaf: isinstance(leaf, jax.Array | np.ndarray)
    axis_of = [
        a if is_array(leaf) else None for a, leaf in zip(axis_of, leaves, strict=True)
    ]
    for axis, leaf in zip(axis_of, leaves, strict=True):
        if axis is not None and not -leaf.ndim <= axis < leaf.ndim:
            raise _misfit("must be axes of every array", f"{axis} for shape {leaf.shape}")
    return axis_of


def _misfit(rule: str, got: Any) -> ValueError:
    return ValueError(
        f"`check_layer(batch_axes=...)` {rule}.\nGot {got}.\n"
        "Leave it out for a function of one sample."
    )
