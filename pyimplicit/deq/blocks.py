"""Cells: one step of an equilibrium layer, with the input injected.

Each is a module called as `cell(z, x)`; `cell.state(x)` is its zero state. Weights start
small enough for the first solves to converge. All are for one sample.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp


def _scaled(module, scale):
    """The module with all its arrays times `scale`."""
    return jax.tree.map(lambda a: scale * a if eqx.is_inexact_array(a) else a, module)


class Bounded(eqx.Module):
    """A linear layer whose matrix has spectral norm at most `bound`: W min(1, bound/‖W‖₂),
    by its singular values. Pure, and differentiable where `eqx.nn.SpectralNorm` keeps a
    power iteration in a state. With bound < 1 and a 1-Lipschitz activation the cell
    contracts. For weight normalisation wrap layers in `eqx.nn.WeightNorm`.

    Source: Miyato et al. 2018, arXiv:1802.05957, with the norm itself for its estimate.
    """

    linear: eqx.nn.Linear
    bound: float = eqx.field(static=True, default=0.9)

    def __call__(self, z, *, key=None) -> jax.Array:
        del key  # `eqx.nn.Sequential` hands one on
        norm = jnp.linalg.norm(self.linear.weight, 2)
        out = jnp.minimum(1.0, self.bound / norm) * (self.linear.weight @ z)
        return out if self.linear.bias is None else out + self.linear.bias


class MLPCell(eqx.Module):
    """activation(W z + U x + b), or with `hidden` units activation(W₂ σ(W₁ z) + U x + b).

    z is `(state_size,)`, x `(input_size,)`. `bound`: of the spectral norm of W (see
    `Bounded`); None: free. `mask`, an argument of the call like z, multiplies W's output.
    """

    W: Callable
    U: eqx.nn.Linear
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        state_size: int,
        input_size: int,
        hidden: int | None = None,
        *,
        activation: Callable = jnp.tanh,
        bound: float | None = None,
        key,
    ):
        a, b, c = jax.random.split(key, 3)
        linear = lambda i, o, key: eqx.nn.Linear(i, o, use_bias=False, key=key)
        limited = lambda layer: layer if bound is None else Bounded(layer, bound)
        if hidden is None:
            self.W = limited(linear(state_size, state_size, a))
        else:
            first, second = linear(state_size, hidden, a), linear(hidden, state_size, b)
            parts = limited(first), eqx.nn.Lambda(activation), limited(second)
            self.W = eqx.nn.Sequential(parts)
        self.U = eqx.nn.Linear(input_size, state_size, key=c)
        self.activation = activation

    def state(self, x) -> jax.Array:
        del x
        return jnp.zeros(self.U.out_features, self.U.weight.dtype)

    def __call__(self, z, x, mask=None) -> jax.Array:
        out = self.W(z)
        out = out if mask is None else mask * out
        return self.activation(out + self.U(x))


class ConvCell(eqx.Module):
    """The residual block of the implicit-layers tutorial, chapter 4:

        y = norm₁(relu(conv₁ z));   norm₃(relu(z + norm₂(x + conv₂ y)))

    z and x are `(channels, *grid)`; `hidden` channels in between. `padding_mode`: as of
    `eqx.nn.Conv`. `mask`, like z, multiplies y.

    Source: Kolter, Duvenaud, Johnson 2020, http://implicit-layers-tutorial.org.
    """

    conv1: eqx.nn.Conv
    conv2: eqx.nn.Conv
    norms: tuple[eqx.nn.GroupNorm, eqx.nn.GroupNorm, eqx.nn.GroupNorm]

    def __init__(
        self,
        channels: int,
        hidden: int,
        kernel_size: int = 3,
        groups: int = 8,
        dims: int = 2,
        *,
        padding_mode: str = "ZEROS",
        scale: float = 0.1,
        key,
    ):
        a, b = jax.random.split(key)
        conv = lambda i, o, key: eqx.nn.Conv(
            dims, i, o, kernel_size, padding=kernel_size // 2, use_bias=False,
            padding_mode=padding_mode, key=key,
        )  # fmt: skip
        self.conv1 = _scaled(conv(channels, hidden, a), scale)
        self.conv2 = _scaled(conv(hidden, channels, b), scale)
        norm = lambda channels: eqx.nn.GroupNorm(groups, channels)
        self.norms = norm(hidden), norm(channels), norm(channels)

    def state(self, x) -> jax.Array:
        return jnp.zeros_like(x)

    def __call__(self, z, x, mask=None) -> jax.Array:
        first, second, third = self.norms
        y = first(jax.nn.relu(self.conv1(z)))
        y = y if mask is None else mask * y
        return third(jax.nn.relu(z + second(x + self.conv2(y))))


class TransformerCell(eqx.Module):
    """A transformer block on z + x, with the norms after the residual sums:

        y = norm₁(z + x + attention(z + x));   norm₂(y + mlp(y))

    z and x are `(length, size)`. `causal`: each position sees itself and earlier ones.
    `masks`: an argument of the call, a pair like z, for the attention and the MLP.

    Source: Bai, Kolter, Koltun 2019, arXiv:1909.01377, Section 4; norms as in Vaswani et
    al. 2017, arXiv:1706.03762.
    """

    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    norms: tuple[eqx.nn.LayerNorm, eqx.nn.LayerNorm]
    causal: bool = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        heads: int,
        hidden: int | None = None,
        *,
        causal: bool = False,
        scale: float = 0.5,
        key,
    ):
        a, b = jax.random.split(key)
        self.attention = _scaled(eqx.nn.MultiheadAttention(heads, size, key=a), scale)
        wide = 2 * size if hidden is None else hidden
        mlp = eqx.nn.MLP(size, size, wide, 1, activation=jax.nn.gelu, key=b)
        self.mlp = _scaled(mlp, scale)
        self.norms = eqx.nn.LayerNorm(size), eqx.nn.LayerNorm(size)
        self.causal = causal

    def state(self, x) -> jax.Array:
        return jnp.zeros_like(x)

    def __call__(self, z, x, masks=(None, None)) -> jax.Array:
        first, second = self.norms
        drop = lambda mask, a: a if mask is None else mask * a
        y = z + x
        allowed = jnp.tril(jnp.ones((len(y), len(y)), bool)) if self.causal else None
        y = jax.vmap(first)(y + drop(masks[0], self.attention(y, y, y, allowed)))
        return jax.vmap(second)(y + drop(masks[1], jax.vmap(self.mlp)(y)))
