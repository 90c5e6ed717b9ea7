r"""Time stepping schemes for M u' + F(u, t) = 0, as data.

Each scheme is a sequence of implicit solves, for `u` at the time t + a h,

    M u + c F(u, t + a h) = Σ pₖ M uₖ - Σ qₖ F(uₖ, tₖ),

where uₖ is the answer of the k-th solve before. That M is never inverted makes equations
without a time derivative (incompressibility) fit in, and that the last solve of a step is
its result (all schemes here are stiffly accurate) makes boundary values hold.
"""

import abc
import dataclasses
import math
from typing import Any, ClassVar, NamedTuple


class Stage(NamedTuple):
    """One solve: `at` a, `c`, the pairs (k, pₖ) of `values` and (k, qₖ) of `rates`."""

    at: float
    c: Any
    values: tuple[tuple[int, Any], ...]
    rates: tuple[tuple[int, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Scheme(abc.ABC):
    """`order` of accuracy; `n_stages`: solves in a step; `memory`: how many values of old
    steps it needs."""

    order: ClassVar[int]
    n_stages: ClassVar[int] = 1
    memory: ClassVar[int] = 1

    @abc.abstractmethod
    def stages(self, h, ratio) -> tuple[Stage, ...]:
        """The solves of a step of length `h` (a number or an array of them); `ratio`: h
        over the step before, 0 in the first step."""


class BackwardEuler(Scheme):
    """Backward Euler: order 1, L-stable. M (u₁ - u₀)/h + F(u₁, t₁) = 0."""

    order = 1

    def stages(self, h, ratio):
        return (Stage(1.0, h, ((1, 1.0),)),)


class CrankNicolson(Scheme):
    """Crank-Nicolson, the trapezoidal rule: order 2, A-stable, does not damp.
    M (u₁ - u₀)/h + (F(u₁, t₁) + F(u₀, t₀))/2 = 0. For second-order equations it is
    Newmark's method of average acceleration (β = 1/4, γ = 1/2), which keeps the energy.

    Source: Crank, Nicolson 1947, doi:10.1017/S0305004100023197; Newmark 1959,
    doi:10.1061/JMCEA3.0000098.
    """

    order = 2

    def stages(self, h, ratio):
        return (Stage(1.0, h / 2, ((1, 1.0),), ((1, h / 2),)),)


class BDF2(Scheme):
    """The two-step backward differentiation formula: order 2, L-stable; steps may change,
    by a factor below 1 + √2. The first step is backward Euler's, which is what the formula
    becomes as the step before grows without bound.

    Source: Curtiss, Hirschfelder 1952, doi:10.1073/pnas.38.3.235; changing steps:
    Grigorieff 1983, doi:10.1007/BF01396319.
    """

    order = 2
    memory = 2

    def stages(self, h, ratio):
        whole = 1 + 2 * ratio
        values = ((1, (1 + ratio) ** 2 / whole), (2, -(ratio**2) / whole))
        return (Stage(1.0, h * (1 + ratio) / whole, values),)


class SDIRK2(Scheme):
    """Two-stage singly diagonally implicit Runge-Kutta: order 2, L-stable.

    Source: Alexander 1977, doi:10.1137/0714068, Theorem 5 with γ = 1 - 1/√2.
    """

    order = 2
    n_stages = 2

    def stages(self, h, ratio):
        g = 1 - 1 / math.sqrt(2)
        return (
            Stage(g, g * h, ((1, 1.0),)),
            Stage(1.0, g * h, ((2, 1.0),), ((1, (1 - g) * h),)),
        )


class SDIRK3(Scheme):
    """Three-stage singly diagonally implicit Runge-Kutta: order 3, L-stable.

    Source: Alexander 1977, doi:10.1137/0714068, Theorem 5: γ is the root near 0.4359 of
    γ³ - 3γ² + 3γ/2 - 1/6 = 0.
    """

    order = 3
    n_stages = 3

    def stages(self, h, ratio):
        g = 0.43586652150845899942
        b1 = -(6 * g**2 - 16 * g + 1) / 4
        b2 = (6 * g**2 - 20 * g + 5) / 4
        return (
            Stage(g, g * h, ((1, 1.0),)),
            Stage((1 + g) / 2, g * h, ((2, 1.0),), ((1, (1 - g) / 2 * h),)),
            Stage(1.0, g * h, ((3, 1.0),), ((2, b1 * h), (1, b2 * h))),
        )
