"""Networks x -> u, equinox modules of one point. Any other module will do too."""

import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


class MLP(eqx.Module):
    """A multilayer perceptron with smooth activation; `dim` to a scalar, or to `(out,)`.

    `width`, `depth`: of the hidden layers. Weights are Glorot's, times `scale` in the
    first layer; its biases are spread over a box of half width `reach` about `centre`, so
    that the neurons bend where the domain is.
    """

    layers: list[tuple[jax.Array, jax.Array]]
    activation: Callable = eqx.field(static=True)
    out: int | None = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        width: int = 20,
        depth: int = 2,
        *,
        activation: Callable = jnp.tanh,
        out: int | None = None,
        scale: float = 1.0,
        centre: Any = 0.0,
        reach: float = 1.0,
        key: jax.Array,
    ):
        _check_sizes("MLP", dim=dim, width=width, depth=depth)
        sizes = [dim, *[width] * depth, 1 if out is None else out]
        self.layers, self.activation, self.out = [], activation, out
        for i, (m, n) in enumerate(itertools.pairwise(sizes)):
            a, b, key = jax.random.split(key, 3)
            W = jax.random.normal(a, (n, m)) * (2 / (m + n)) ** 0.5
            bias = jnp.zeros(n)
            if i == 0:
                W = scale * W * ((m + n) / (2 * m)) ** 0.5
                at = jax.random.uniform(b, (n, m), minval=-reach, maxval=reach) + centre
                bias = -jnp.sum(W * at, axis=1)
            self.layers.append((W, bias))

    def __call__(self, x):
        for W, b in self.layers[:-1]:
            x = self.activation(W @ x + b)
        W, b = self.layers[-1]
        x = W @ x + b
        return x[0] if self.out is None else x


class ReLU3(eqx.Module):
    """The residual network of the Deep Ritz paper: `blocks` of s + φ(W₂ φ(W₁ s + b₁) +
    b₂), φ(x) = max(x, 0)³, then a linear map to a scalar (or `(out,)`).

    The first block maps points to `width` and adds them padded with zeros; so in two
    dimensions 3 to 6 blocks of width 10 have 591, 811, 1031 and 1251 parameters, as in
    the paper. `lift`: a linear map to `width` comes before, for width < dim.

    Source: E, Yu, *The deep Ritz method* (2018), Section 2.1. doi:10.1007/s40304-018-0127-z
    """

    lift: tuple[jax.Array, jax.Array] | None
    blocks: list[tuple[jax.Array, jax.Array, jax.Array, jax.Array]]
    last: tuple[jax.Array, jax.Array]
    width: int = eqx.field(static=True)
    out: int | None = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        width: int = 10,
        blocks: int = 4,
        *,
        lift: bool = False,
        out: int | None = None,
        key: jax.Array,
    ):
        _check_sizes("ReLU3", dim=dim, width=width, blocks=blocks)
        if width < dim and not lift:
            raise ValueError(
                "`ReLU3(width=...)` must be at least `dim`, as points are padded to it.\n"
                f"Got width = {width} and dim = {dim}.\nPass lift=True, or a wider net."
            )
        keys = jax.random.split(key, 2 * blocks + 2)
        dense = lambda key, m, n: (
            jax.random.normal(key, (n, m)) * (2 / (m + n)) ** 0.5,
            jnp.zeros(n),
        )
        self.lift = dense(keys[0], dim, width) if lift else None
        into = [width if lift else dim, *[width] * (blocks - 1)]
        self.blocks = [
            (*dense(a, m, width), *dense(b, width, width))
            for m, a, b in zip(into, keys[1:-1:2], keys[2:-1:2], strict=True)
        ]
        self.last = dense(keys[-1], width, 1 if out is None else out)
        self.width, self.out = width, out

    def __call__(self, x):
        s = x
        if self.lift is not None:
            W, b = self.lift
            s = W @ x + b
        for W1, b1, W2, b2 in self.blocks:
            padded = jnp.pad(s, (0, self.width - s.size))
            s = padded + relu3(W2 @ relu3(W1 @ s + b1) + b2)
        W, b = self.last
        y = W @ s + b
        return y[0] if self.out is None else y


def relu3(x: jax.Array) -> jax.Array:
    """max(x, 0)³: two continuous derivatives."""
    return jnp.maximum(x, 0.0) ** 3


def count(model: Any) -> int:
    """The number of parameters of a model."""
    return sum(a.size for a in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


def _check_sizes(name: str, **sizes) -> None:
    for what, n in sizes.items():
        if not isinstance(n, int) or n < 1:
            raise ValueError(
                f"`{name}({what}=...)` must be a positive whole number.\nGot {n!r}.\n"
                "Pass e.g. width=20, depth=2."
            )
