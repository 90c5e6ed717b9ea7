"""Equilibria of several resolutions at once."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .model import DEQ


class MultiscaleCell(eqx.Module):
    """zᵢ ← post[i](Σⱼ fuse[i][j](yⱼ)),  yⱼ = branches[j](zⱼ, x).

    `branches`: one map for each resolution, which keeps the shape of its state. `fuse`: a
    square of maps; `fuse[i][j]` brings resolution j to i; None is the identity. `post`:
    one map each, or None. `shapes`: of the states.
    """

    branches: tuple[Callable, ...]
    fuse: tuple[tuple[Callable | None, ...], ...]
    post: tuple[Callable | None, ...]
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def __check_init__(self):
        n = len(self.branches)
        counts = len(self.fuse), *(len(row) for row in self.fuse), len(self.post)
        if {*counts, len(self.shapes)} != {n}:
            raise ValueError(
                f"`MultiscaleDEQ` must get {n} shapes and posts and {n} x {n} fusions, one "
                f"for each of its branches.\nGot {len(self.shapes)} shapes, "
                f"{len(self.post)} posts and rows of {[len(row) for row in self.fuse]}.\n"
                "fuse[i][j] brings state j to shape i."
            )

    def state(self, x) -> tuple[jax.Array, ...]:
        dtype = jnp.result_type(float, *jax.tree.leaves(x))
        return tuple(jnp.zeros(shape, dtype) for shape in self.shapes)

    def __call__(self, z, x, *args) -> tuple[jax.Array, ...]:
        y = [branch(part, x, *args) for branch, part in zip(self.branches, z, strict=True)]
        out = []
        for row, last in zip(self.fuse, self.post, strict=True):
            pairs = zip(row, y, strict=True)
            total = sum(part if f is None else f(part) for f, part in pairs)
            out.append(total if last is None else last(total))
        return tuple(out)


def MultiscaleDEQ(
    branches: Sequence[Callable],
    fuse: Sequence[Sequence[Callable | None]],
    *,
    shapes: Sequence[tuple[int, ...]],
    post: Sequence[Callable | None] | None = None,
    **options: Any,
) -> DEQ:
    """A `DEQ` whose state is a tuple, one array for each resolution, solved together.

    **Arguments:** those of `MultiscaleCell`; `branches[j]` is called with (z_j, x, *args),
    and decides whether it injects x. `options`: of `DEQ`.

    **Returns:** a `DEQ`; the `value` of its solutions is a tuple of arrays of `shapes`.

    ??? cite "Reference"
        Bai, Koltun, Kolter, *Multiscale deep equilibrium models*, NeurIPS 2020, Section
        3. arXiv:2006.08656
    """
    cell = MultiscaleCell(
        tuple(branches),
        tuple(tuple(row) for row in fuse),
        tuple([None] * len(branches) if post is None else post),
        tuple(tuple(shape) for shape in shapes),
    )
    return DEQ(cell, **options)


def image_pyramid(
    channels: Sequence[int], size: int, input_channels: int, *, key, scale: float = 0.2
) -> tuple[list, list, list, list]:
    """`(branches, fuse, shapes, post)` for square images `(input_channels, size, size)`.

    Resolution i has `channels[i]` channels and size/2ⁱ. The input enters at the finest; a
    3 x 3 convolution is the branch; averages of 2 x 2 pixels lead down, repetition up, and
    1 x 1 convolutions change channels; tanh closes.
    """
    n = len(channels)
    if size % 2 ** (n - 1):
        raise ValueError(
            f"`image_pyramid(size=...)` must be a multiple of {2 ** (n - 1)} for {n} "
            f"resolutions.\nGot {size}.\nPad the image, or take fewer."
        )
    keys = iter(jax.random.split(key, n * n + n + 1))
    inject = eqx.nn.Conv2d(input_channels, channels[0], 1, key=next(keys))
    branches: list[Callable] = []
    for i, c in enumerate(channels):
        conv = eqx.nn.Conv2d(c, c, 3, padding=1, key=next(keys))
        conv = eqx.tree_at(lambda m: m.weight, conv, scale * conv.weight)
        branches.append(_Branch(conv, inject if i == 0 else None))
    fuse = [
        [
            None if i == j else _Resample(_pointwise(a, b, scale, next(keys)), i - j)
            for j, a in enumerate(channels)
        ]
        for i, b in enumerate(channels)
    ]
    shapes = [(c, size // 2**i, size // 2**i) for i, c in enumerate(channels)]
    return branches, fuse, shapes, [jnp.tanh] * n


def _pointwise(a, b, scale, key):
    conv = eqx.nn.Conv2d(a, b, 1, use_bias=False, key=key)
    return eqx.tree_at(lambda m: m.weight, conv, scale * conv.weight)


class _Branch(eqx.Module):
    conv: eqx.nn.Conv2d
    inject: eqx.nn.Conv2d | None

    def __call__(self, z, x):
        y = self.conv(z)
        return y if self.inject is None else y + self.inject(x)


class _Resample(eqx.Module):
    conv: eqx.nn.Conv2d
    down: int = eqx.field(static=True)  # how many times smaller, in powers of two

    def __call__(self, z):
        z = self.conv(z)
        if self.down < 0:
            for axis in (1, 2):
                z = jnp.repeat(z, 2**-self.down, axis)
            return z
        k = 2**self.down
        c, n, m = z.shape
        return z.reshape(c, n // k, k, m // k, k).mean((2, 4))
