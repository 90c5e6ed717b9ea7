"""What is put before a network, or beside it: features and singular functions."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .domains import Corner


class Features(eqx.Module):
    """A network of functions of x: net(p₁(x), p₂(x), …).

    `parts`: functions of a point to a number or a vector; None is x itself. `net`: takes
    all of them as one vector. E.g. on the slit, where solutions are smooth functions of
    r^(1/2) (cos θ/2, sin θ/2),

        ritz.Features((None, ritz.Slit().corner), ritz.MLP(4, key=key))
    """

    parts: tuple[Callable | None, ...]
    net: Callable

    def __call__(self, x):
        values = (x if p is None else p(x) for p in self.parts)
        return self.net(jnp.concatenate([jnp.atleast_1d(v) for v in values]))


class Fourier(eqx.Module):
    """cos and sin of 2π Bx for `count` random rows of B, normal with deviation `scale`
    [1 / length]; `(2 count,)`. A part for `Features`; lets networks follow quick changes.

    `trained`: whether B is a parameter of the model.

    Source: Tancik et al., *Fourier features let networks learn high frequency functions*
    (2020), Section 4. arXiv:2006.10739.
    """

    frequencies: jax.Array | None
    fixed: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        count: int = 16,
        scale: float = 1.0,
        *,
        trained: bool = False,
        key: jax.Array,
    ):
        B = scale * jax.random.normal(key, (count, dim))
        self.frequencies = B if trained else None
        # Static: any array of a module is a parameter.
        self.fixed = () if trained else tuple(map(tuple, np.asarray(B).tolist()))

    def __call__(self, x):
        B = self.fixed if self.frequencies is None else self.frequencies
        angles = 2 * jnp.pi * jnp.asarray(B, x.dtype) @ x
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


class Periodic(eqx.Module):
    """Each coordinate with a period as cos and sin of its multiples 1 … `harmonics`, so
    that whatever follows has these periods, with all derivatives. A part for `Features`.

    `periods`: one for each coordinate [length], None for those that have none and are
    passed on. `size`: of the result.

    Source: Dong, Ni, *A method for representing periodic functions and enforcing exactly
    periodic boundary conditions with deep neural networks* (2021).
    doi:10.1016/j.jcp.2021.110242
    """

    periods: tuple[float | None, ...] = eqx.field(static=True)
    harmonics: int = eqx.field(static=True)

    def __init__(self, periods: Sequence[float | None], harmonics: int = 1):
        self.periods, self.harmonics = tuple(periods), harmonics
        if not all(p is None or p > 0 for p in self.periods) or harmonics < 1:
            raise ValueError(
                "`Periodic(periods, harmonics)` must have positive periods, and at least "
                f"one harmonic.\nGot {self.periods} and {harmonics!r}.\n"
                "Pass e.g. (1.0, None)."
            )

    @property
    def size(self) -> int:
        return sum(1 if p is None else 2 * self.harmonics for p in self.periods)

    def __call__(self, x):
        k = jnp.arange(1, self.harmonics + 1, dtype=x.dtype)
        out = []
        for i, period in enumerate(self.periods):
            if period is None:
                out.append(x[i : i + 1])
            else:
                angles = 2 * jnp.pi * k * x[i] / period
                out += [jnp.cos(angles), jnp.sin(angles)]
        return jnp.concatenate(out)


class Singular(eqx.Module):
    """χ(r) r^(kα) sin(kαθ) at a `corner`, or with cos if `natural`: the leading terms of
    solutions that vanish (or have no flux) on its edges.

    `order`: k. χ is 1 up to `inner` and 0 from `outer` on, with two continuous
    derivatives; let `outer` stay clear of the rest of the boundary.
    """

    corner: Corner
    inner: float = eqx.field(static=True, default=0.0)
    outer: float = eqx.field(static=True, default=0.9)
    order: int = eqx.field(static=True, default=1)
    natural: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if not 0 <= self.inner < self.outer or self.order < 1:
            raise ValueError(
                "`Singular(corner, inner, outer, order)` must have 0 <= inner < outer and "
                f"order >= 1.\nGot {self.inner!r}, {self.outer!r} and {self.order!r}.\n"
                "Pass e.g. inner=0.0, outer=0.9."
            )

    def __call__(self, x):
        r, _ = self.corner.polar(x)
        c, s = re, im = self.corner(x)
        for _ in range(self.order - 1):
            re, im = re * c - im * s, re * s + im * c
        t = jnp.clip((r - self.inner) / (self.outer - self.inner), 0.0, 1.0)
        cutoff = 1 - t**3 * (10 - 15 * t + 6 * t**2)
        return cutoff * (re if self.natural else im)


class Enriched(eqx.Module):
    """`net` plus Σ aₖ sₖ(x) with trained amplitudes aₖ, of functions such as `Singular`.

    `Exact` multiplies the network by its distance but not the functions: they must vanish
    on the boundary by themselves.

    Source: Strang, Fix, *An analysis of the finite element method* (1973), Chapter 8.
    """

    net: Callable
    functions: tuple[Callable, ...]
    amplitudes: jax.Array

    def __init__(self, net: Callable, functions: Sequence[Callable], amplitudes=None):
        self.net, self.functions = net, tuple(functions)
        zeros = jnp.zeros(len(self.functions))
        self.amplitudes = zeros if amplitudes is None else jnp.asarray(amplitudes, float)
        if self.amplitudes.shape != zeros.shape:
            raise ValueError(
                "`Enriched(amplitudes=...)` must have one number for each function.\n"
                f"Got shape {self.amplitudes.shape} for {len(zeros)} functions.\n"
                "Leave it out to start from zero."
            )

    def extra(self, x):
        """Σ aₖ sₖ(x)."""
        return self.amplitudes @ jnp.stack([s(x) for s in self.functions])

    def __call__(self, x):
        return self.net(x) + self.extra(x)
