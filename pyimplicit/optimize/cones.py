"""The cones of `pi.cone_program`, in Clarabel's conventions."""

import dataclasses
from typing import Any

import clarabel as _clarabel
import jax.numpy as jnp
import numpy as np


clarabel: Any = _clarabel  # a compiled module without type information


@dataclasses.dataclass(frozen=True)
class Zero:
    """s = 0: equalities."""

    dim: int

    def clarabel(self):
        return clarabel.ZeroConeT(self.dim)


@dataclasses.dataclass(frozen=True)
class Nonnegative:
    """s ≥ 0."""

    dim: int

    def clarabel(self):
        return clarabel.NonnegativeConeT(self.dim)


@dataclasses.dataclass(frozen=True)
class SecondOrder:
    """(t, v), ‖v‖ ≤ t."""

    dim: int

    def clarabel(self):
        return clarabel.SecondOrderConeT(self.dim)


@dataclasses.dataclass(frozen=True)
class Exponential:
    """The closure of {(a, b, c): b > 0, b exp(a/b) ≤ c}."""

    dim = 3

    def clarabel(self):
        return clarabel.ExponentialConeT()


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
