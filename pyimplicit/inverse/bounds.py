"""Bounds on the model, held by a change of variables."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


class Transform:
    r"""m = T(x) for free x, entry by entry, with m strictly between its bounds.

    Both bounds: m = l + (u - l) sigmoid(x). One bound: m = l + softplus(x), or
    u - softplus(x). None: m = x. A minimiser *on* a bound lies at infinite x: it is
    approached, and the gradient in x vanishes there, as it should.

    `lower`, `upper`: vectors `(n,)`, infinite where there is no bound.
    """

    def __init__(self, lower: np.ndarray, upper: np.ndarray):
        self.lower, self.upper = lower, upper
        self.kind = np.isfinite(lower) + 2 * np.isfinite(upper)  # 0 none, …, 3 both
        self.free = not self.kind.any()
        self._l = np.where(np.isfinite(lower), lower, 0.0)
        self._u = np.where(np.isfinite(upper), upper, 1.0)

    def forward(self, x):
        """The flat model `(n,)` of free variables `(n,)`."""
        if self.free:
            return x
        l, u = (jnp.asarray(b, x.dtype) for b in (self._l, self._u))
        soft = jax.nn.softplus(x)
        both = l + (u - l) * jax.nn.sigmoid(x)
        return jnp.select(
            [self.kind == k for k in (1, 2, 3)], [l + soft, u - soft, both], x
        )

    def inverse(self, m):
        """The free variables of a flat model inside its bounds."""
        if self.free:
            return m
        l, u = (jnp.asarray(b, m.dtype) for b in (self._l, self._u))
        unsoft = lambda y: y + jnp.log(-jnp.expm1(-y))
        safe = lambda y, k: jnp.where(self.kind == k, y, 0.5)
        both = safe((m - l) / (u - l), 3)
        return jnp.select(
            [self.kind == k for k in (1, 2, 3)],
            [unsoft(safe(m - l, 1)), unsoft(safe(u - m, 2)), jax.scipy.special.logit(both)],
            m,
        )

    def slope(self, x):
        """dm/dx, a positive vector `(n,)`."""
        if self.free:
            return jnp.ones_like(x)
        return jax.jvp(self.forward, (x,), (jnp.ones_like(x),))[1]


def transform(bounds, m0) -> Transform:
    """Checks `bounds = (lower, upper)` against the model `m0`, a pytree."""
    flat = np.asarray(ravel_pytree(m0)[0])
    if bounds is None:
        return Transform(np.full(flat.shape, -np.inf), np.full(flat.shape, np.inf))
    try:
        lower, upper = bounds
    except (TypeError, ValueError):
        raise ValueError(
            "`fit(bounds=...)` must be a pair (lower, upper).\n"
            f"Got {type(bounds).__name__}.\n"
            "Pass two numbers or two models; None for a side without a bound."
        ) from None
    lower = _flat(lower, m0, flat, -np.inf, "lower")
    upper = _flat(upper, m0, flat, np.inf, "upper")
    outside = np.flatnonzero(~((lower < flat) & (flat < upper)))
    if outside.size:
        k = outside[0]
        raise ValueError(
            "`fit(m0, bounds=...)` must start strictly between its bounds.\n"
            f"Got {flat[k]:.6g} in ({lower[k]:.6g}, {upper[k]:.6g}) as entry {k} of the "
            f"flat model ({outside.size} such).\nMove `m0` inside, or widen the bounds."
        )
    return Transform(lower, upper)


def _flat(bound, m0, flat, default: float, name: str) -> np.ndarray:
    if bound is None:
        return np.full(flat.shape, default)
    leaves = jax.tree.leaves(bound)
    if len(leaves) == 1 and np.ndim(leaves[0]) == 0:
        return np.full(flat.shape, float(leaves[0]))
    same = jax.tree.structure(bound) == jax.tree.structure(m0)
    if not same or [np.shape(b) for b in leaves] != [
        np.shape(m) for m in jax.tree.leaves(m0)
    ]:
        raise ValueError(
            f"`fit(bounds=...)`: the {name} bound must be a number or shaped like `m0`.\n"
            f"Got {jax.tree.map(np.shape, bound)} for {jax.tree.map(np.shape, m0)}.\n"
            "Use -inf or inf for single entries without a bound."
        )
    return np.asarray(ravel_pytree(bound)[0])
