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


def wolfe(
    value: Callable[[float], tuple[float, float, Any]],
    start: float,
    slope: float,
    eps: float,
    t: float = 1.0,
    *,
    decrease: float = 1e-4,
    curvature: float = 0.25,
    loose: float = 0.9,
    patience: int = 5,
    max_trials: int = 40,
) -> tuple[float, Any] | None:
    """A length t with enough decrease whose slope is at most `curvature` of the first
    (strong Wolfe); after `patience` trials one that has risen to `loose` of it will do
    (weak Wolfe). Either way yᵀs > 0, as L-BFGS needs. Else the best with enough decrease.

    `value(t)` returns the objective, its slope along the step, and what else to keep. The
    minimum is bracketed, and approached by cubic interpolation, exact for quadratics: a
    near exact search takes a second solve in some steps, and saves L-BFGS most of its
    steps on the ill-conditioned quadratics that inverse problems are (there it is then
    nearly the method of conjugate gradients).

    ??? cite "Reference"
        Nocedal, Wright, *Numerical Optimization* (2006), Algorithm 3.5 and eq. (3.59).
        doi:10.1007/978-0-387-40065-5
    """
    low, high, fallback = (0.0, start, slope), math.inf, None
    slack = round_off(start, slope, eps)
    for trial in range(max_trials):
        phi, rise, rest = value(t)
        lower = phi <= start + decrease * t * slope + slack and (slack or phi < start)
        nearest = _cubic_minimum(low, (t, phi, rise))
        if not lower:
            high = t
            if -t * slope <= eps * abs(start):
                break
        else:
            risen = trial >= patience and rise >= loose * slope
            if abs(rise) <= -curvature * slope or risen:
                return t, rest
            fallback = t, rest
            if rise < 0:
                low = t, phi, rise
            else:
                high = t
        if math.isinf(high):
            t = min(max(nearest, 1.1 * t), 10 * t) if nearest > 0 else 10 * t
        else:
            width = high - low[0]
            t = min(max(nearest, low[0] + 0.1 * width), high - 0.1 * width)
    return fallback


def _cubic_minimum(a: tuple, b: tuple) -> float:
    """Where the cubic through two (t, value, slope) is least; where there is no such
    place, infinity; 0 where b is not finite."""
    (s, f, df), (t, g, dg) = a, b
    if not (math.isfinite(g) and math.isfinite(dg)):
        return 0.0
    mean = df + dg - 3 * (f - g) / (s - t)
    square = mean**2 - df * dg
    root = math.sqrt(max(square, 0.0))
    below = dg - df + 2 * root
    return t - (t - s) * (dg + root - mean) / below if square >= 0 and below else math.inf


def round_off(start: float, slope: float, eps: float) -> float:
    """What an objective near `start` may be wrong by, if the decrease that a step
    promises is no larger than that; else 0."""
    noise = 100 * eps * abs(start)
    return noise if abs(slope) <= noise else 0.0
