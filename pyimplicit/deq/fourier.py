"""Fourier neural operators on rectangular grids, as equilibrium cells."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp


class SpectralConv(eqx.Module):
    """A convolution over the whole (periodic) grid, by its lowest Fourier modes.

    `(in_channels, n, m)` to `(out_channels, n, m)`, for every grid with n, m >= 2 modes;
    the same weights on each, which is what makes it an operator.

    Source: Li et al. 2021, *Fourier neural operator*, Eq. (5). arXiv:2010.08895.
    """

    weight: jax.Array  # (2, 2, out, in, modes, modes): re and im; positive, negative rows
    modes: int = eqx.field(static=True)

    def __init__(self, in_channels: int, out_channels: int, modes: int, *, scale=1.0, key):
        shape = (2, 2, out_channels, in_channels, modes, modes)
        self.weight = scale / in_channels * jax.random.normal(key, shape)
        self.modes = modes

    def __call__(self, z) -> jax.Array:
        k, grid = self.modes, z.shape[1:]
        if min(grid) < 2 * k:
            raise ValueError(
                f"`SpectralConv(modes={k})` needs a grid of at least {2 * k} x {2 * k}.\n"
                f"Got {grid[0]} x {grid[1]}.\nTake fewer modes."
            )
        weight = jax.lax.complex(*self.weight)
        spectrum = jnp.fft.rfft2(z)
        low = jnp.stack([spectrum[:, :k, :k], spectrum[:, -k:, :k]])
        low = jnp.einsum("soiab,siab->soab", weight, low.astype(weight.dtype))
        out = jnp.zeros((weight.shape[1], *spectrum.shape[1:]), low.dtype)
        out = out.at[:, :k, :k].set(low[0]).at[:, -k:, :k].set(low[1])
        return jnp.fft.irfft2(out, s=grid).astype(z.dtype)


class FNOCell(eqx.Module):
    """activation(K z + W z + U x + b): K a `SpectralConv`, W and U 1 x 1 convolutions.

    z is `(width, n, m)`, x `(input_channels, n, m)`. With `activation` tanh the state is
    bounded, so that there is an equilibrium (Brouwer); `scale` keeps the first one stable.

    Source: Marwah et al. 2023, *Deep equilibrium based neural operators for steady-state
    PDEs* (FNO-DEQ). arXiv:2312.00234.
    """

    K: SpectralConv
    W: eqx.nn.Conv2d
    U: eqx.nn.Conv2d
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        input_channels: int,
        modes: int,
        *,
        activation: Callable = jnp.tanh,
        scale: float = 0.3,
        key,
    ):
        a, b, c = jax.random.split(key, 3)
        self.K = SpectralConv(width, width, modes, scale=scale, key=a)
        conv = eqx.nn.Conv2d(width, width, 1, use_bias=False, key=b)
        self.W = eqx.tree_at(lambda m: m.weight, conv, scale * conv.weight)
        self.U = eqx.nn.Conv2d(input_channels, width, 1, key=c)
        self.activation = activation

    def state(self, x) -> jax.Array:
        return jnp.zeros((self.W.out_channels, *x.shape[1:]), self.W.weight.dtype)

    def __call__(self, z, x) -> jax.Array:
        return self.activation(self.K(z) + self.W(z) + self.U(x))
