"""Step lengths: never one that makes the objective larger, nor one that is not finite."""

import math
from collections.abc import Callable
from typing import Any


NOT_FINITE = (
    "the gradient is not finite where the misfit is: look for sqrt, norm or a power of "
    "something that is zero there"
)
NO_DECREASE = (
    "the line search found no decrease: the derivative of the misfit is wrong (try "
    "pi.taylor_test), or the misfit is noisy"
)


def armijo(
    value: Callable[[float], tuple[float, Any]],
    start: float,
    slope: float,
    *,
    decrease: float = 1e-4,
    max_trials: int = 30,
) -> tuple[float, Any] | None:
    """The first of 1, then quadratic-interpolated shorter lengths t with
    value(t) <= start + decrease t slope; with what else `value` returned. None if no
    length will do.

    ??? cite "Reference"
        Armijo, *Minimization of functions having Lipschitz continuous first partial
        derivatives*, Pacific J. Math. 16 (1966). doi:10.2140/pjm.1966.16.1
    """
    t = 1.0
    for _ in range(max_trials):
        phi, rest = value(t)
        if phi <= start + decrease * t * slope:
            return t, rest
        if math.isfinite(phi):
            best = -slope * t**2 / (2 * (phi - start - slope * t))
            t = min(max(best, 0.1 * t), 0.5 * t)
        else:
            t *= 0.25
    return None


def weak_wolfe(
    value: Callable[[float], tuple[float, float, Any]],
    start: float,
    slope: float,
    t: float = 1.0,
    *,
    decrease: float = 1e-4,
    curvature: float = 0.9,
    max_trials: int = 40,
) -> tuple[float, Any] | None:
    """A length t with enough decrease and a slope that has risen to `curvature` of
    itself, by bracketing and bisection; then yᵀs > 0, as L-BFGS needs.

    `value(t)` returns the objective, its slope along the step, and what else to keep.

    ??? cite "Reference"
        Lewis, Overton, *Nonsmooth optimization via quasi-Newton methods*, Math. Program.
        141 (2013), Algorithm 2.6. doi:10.1007/s10107-012-0514-2
    """
    low, high, fallback = 0.0, math.inf, None
    for _ in range(max_trials):
        phi, rise, rest = value(t)
        if not phi <= start + decrease * t * slope:
            high = t
        elif rise < curvature * slope:
            low, fallback = t, (t, rest)
        else:
            return t, rest
        t = 2 * low if math.isinf(high) else (low + high) / 2
    return fallback


def at_precision(start: float, slope: float, eps: float) -> bool:
    """Whether the decrease that a step promises is below round-off."""
    return abs(slope) <= 100 * eps * max(abs(start), math.ulp(0.0))
