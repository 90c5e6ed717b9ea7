"""The cones of `pi.cone_program`, in Clarabel's conventions."""

import dataclasses

import clarabel
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..implicit import attach
from .projection.cones import (
    projection_exponential_cone,
    projection_psd_cone,
    projection_second_order_cone,
)


@dataclasses.dataclass(frozen=True)
class Zero:
    """s = 0: equalities."""

    dim: int

    def clarabel(self):
        return clarabel.ZeroConeT(self.dim)

    def dual_projection(self, u):
        return u


@dataclasses.dataclass(frozen=True)
class Nonnegative:
    """s ≥ 0."""

    dim: int

    def clarabel(self):
        return clarabel.NonnegativeConeT(self.dim)

    def dual_projection(self, u):
        return jnp.where(u > 0, u, 0.0)


@dataclasses.dataclass(frozen=True)
class SecondOrder:
    """(t, v), ‖v‖ ≤ t."""

    dim: int

    def clarabel(self):
        return clarabel.SecondOrderConeT(self.dim)

    def dual_projection(self, u):
        return projection_second_order_cone(u)


@dataclasses.dataclass(frozen=True)
class Exponential:
    """The closure of {(a, b, c): b > 0, b exp(a/b) ≤ c}."""

    dim = 3

    def clarabel(self):
        return clarabel.ExponentialConeT()

    def dual_projection(self, u):
        return u + projection_exponential_cone(-u)  # Moreau


@dataclasses.dataclass(frozen=True)
class Power:
    """{(a, b, c): a^α b^(1-α) ≥ |c|, a, b ≥ 0}, 0 < α < 1."""

    alpha: float
    dim = 3

    def __post_init__(self):
        if not 0 < self.alpha < 1:
            raise ValueError(
                f"`Power(alpha)` must lie between 0 and 1.\nGot {self.alpha}.\n"
                "At 0 and 1 it is a second-order cone of two entries and a half-line."
            )

    def clarabel(self):
        return clarabel.PowerConeT(self.alpha)

    def dual_projection(self, u):
        return u + _power(-u, self.alpha)  # Moreau


@dataclasses.dataclass(frozen=True)
class PSD:
    """Positive semidefinite n x n matrices, as the n(n+1)/2 entries of the upper triangle,
    column by column, those off the diagonal times √2."""

    n: int

    @property
    def dim(self) -> int:
        return self.n * (self.n + 1) // 2

    def clarabel(self):
        return clarabel.PSDTriangleConeT(self.n)

    def dual_projection(self, u):
        return vectorise(projection_psd_cone(matricise(u, self.n)))


Cone = Zero | Nonnegative | SecondOrder | Exponential | Power | PSD


def vectorise(X):
    """The entries of a symmetric matrix as `PSD` has them."""
    j, i = np.tril_indices(X.shape[0])
    return X[i, j] * np.where(i == j, 1.0, np.sqrt(2.0))


def matricise(v, n: int):
    """The symmetric matrix of the entries `v`."""
    j, i = np.tril_indices(n)
    entries = v * np.where(i == j, 1.0, np.sqrt(0.5))
    return jnp.zeros((n, n), v.dtype).at[i, j].set(entries).at[j, i].set(entries)


def dual_projection(cones: tuple[Cone, ...], u):
    """The projection of u onto the product of the dual cones; differentiable."""
    out, at = [], 0
    for cone, count in _runs(cones):
        block = u[at : at + count * cone.dim].reshape(count, cone.dim)
        one = cone.dual_projection
        out.append((jax.vmap(one)(block) if count > 1 else one(block[0])).reshape(-1))
        at += count * cone.dim
    return jnp.concatenate(out) if out else u


def _runs(cones):
    """Equal cones next to each other, counted: they are one batch."""
    runs: list[list] = []
    for cone in cones:
        if runs and runs[-1][0] == cone:
            runs[-1][1] += 1
        else:
            runs.append([cone, 1])
    return runs


@eqx.filter_jit
def _power(x, alpha: float):
    """The projection onto the power cone: with r = |c| of the answer,

        a(r) = ½(a + √(a² + 4 α r (|c| - r))), b(r) likewise,  a(r)^α b(r)^(1-α) = r

    (Hien 2015, *Differential properties of Euclidean projection onto power cone*,
    doi:10.1007/s00186-015-0514-0). r by bisection, its derivative by that equation.
    """
    a, b, c = jax.lax.stop_gradient(x)
    size = jnp.abs(c)
    product = lambda a, b: jnp.maximum(a, 0) ** alpha * jnp.maximum(b, 0) ** (1 - alpha)
    inside = (a >= 0) & (b >= 0) & (product(a, b) >= size)
    polar = (a <= 0) & (b <= 0) & (product(-a / alpha, -b / (1 - alpha)) >= size)
    general = ~inside & ~polar & (size > 0)
    y = jnp.where(general, x, jnp.array([0.0, 0.0, 1.0], x.dtype))

    def ends(r, y):
        gap = r * (jnp.abs(y[2]) - r)
        root = lambda v, w: (v + jnp.sqrt(v**2 + 4 * w * gap)) / 2
        return root(y[0], alpha), root(y[1], 1 - alpha)

    def condition(r, y):
        a, b = ends(r, y)
        return alpha * jnp.log(a) + (1 - alpha) * jnp.log(b) - jnp.log(r)

    still = jax.lax.stop_gradient(y)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        above = condition(middle, still) > 0
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    start = jnp.zeros((), x.dtype), jnp.abs(still[2])
    low, high = jax.lax.fori_loop(0, jnp.finfo(x.dtype).nmant + 8, halve, start)
    r = attach((low + high) / 2, condition, y)
    p = jnp.stack([*ends(r, y), jnp.sign(y[2]) * r])
    flat = jnp.maximum(x, 0.0).at[2].set(0.0)
    return jnp.where(inside, x, jnp.where(polar, 0.0, jnp.where(general, p, flat)))
