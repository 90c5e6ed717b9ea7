"""Step lengths: never one that makes the objective larger, nor one that is not finite."""

import math
from collections.abc import Callable
from typing import Any


def armijo(
    value: Callable[[float], tuple[float, Any]],
    start: float,
    slope: float,
    eps: float,
    *,
    decrease: float = 1e-4,
    max_trials: int = 30,
) -> tuple[float, Any] | None:
    """The first of 1, then quadratic-interpolated shorter lengths t with
    value(t) <= start + decrease t slope; with what else `value` returned. None if no
    length will do. A step that promises only round-off may lose as much.

    ??? cite "Reference"
        Armijo, *Minimization of functions having Lipschitz continuous first partial
        derivatives*, Pacific J. Math. 16 (1966). doi:10.2140/pjm.1966.16.1
    """
    t, slack = 1.0, round_off(start, slope, eps)
    for _ in range(max_trials):
        phi, rest = value(t)
        if phi <= start + decrease * t * slope + slack and (slack or phi < start):
            return t, rest
        if slack or -t * slope <= eps * abs(start):
            return None
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
    eps: float,
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
    slack = round_off(start, slope, eps)
    for _ in range(max_trials):
        phi, rise, rest = value(t)
        if not phi <= start + decrease * t * slope + slack or not (slack or phi < start):
            high = t
            if -t * slope <= eps * abs(start):
                break
        elif rise < curvature * slope:
            low, fallback = t, (t, rest)
        else:
            return t, rest
        t = 2 * low if math.isinf(high) else (low + high) / 2
    return fallback


def round_off(start: float, slope: float, eps: float) -> float:
    """What an objective near `start` may be wrong by, if the decrease that a step
    promises is no larger than that; else 0."""
    noise = 100 * eps * abs(start)
    return noise if abs(slope) <= noise else 0.0
