"""The rows about derivatives: differences, the two modes, their solves, second order."""

import itertools
from collections.abc import Callable

import numpy as np

from .flat import Flat, apart, pull, push, unequal
from .linear import solve_residuals
from .report import Skip, words


# Steps of central differences, relative to the size of each argument. Two neighbours make
# one difference of fourth order (Richardson).
RATIO = 10**0.5
STEPS = 0.1 * RATIO ** -np.arange(13.0)


def jvp_vs_differences(layer: Flat):
    if layer.no_forward:
        raise Skip(f"no forward mode: {words(layer.no_forward)}")
    least = _least(layer, layer.value(layer.x))

    def along(v):
        Jv = layer.tangent(layer.x, v)
        error = lambda D: apart(D, Jv, layer.out_sizes, least)
        return _sweep(layer, layer.value, v, error)

    return _worst(map(along, layer.V))


def vjp_vs_jvp(layer: Flat):
    if layer.no_reverse:
        raise layer.no_reverse
    if layer.no_forward:
        raise Skip("no forward mode; see the next row")

    def along(v, w):
        y, g = map(np.asarray, layer.adjoint(layer.x, w))
        return unequal(
            w * np.asarray(layer.tangent(layer.x, v)), g * v, _least(layer, w * y)
        )

    found = [along(v, w) for v, w in zip(layer.V, layer.W, strict=True)]
    return float(np.max(found)), "<w, J v> and <Jᵀw, v>"


def vjp_vs_differences(layer: Flat):
    if not layer.no_forward:
        raise Skip("follows from the two above")
    if layer.no_reverse:
        raise layer.no_reverse

    def along(v, w):
        y, g = map(np.asarray, layer.adjoint(layer.x, w))
        error = lambda D: unequal(w * D, g * v, _least(layer, w * y))
        return _sweep(layer, layer.value, v, error)

    return _worst(map(along, layer.V, layer.W))


def adjoint_residual(layer: Flat):
    programs = []
    if not layer.no_forward:
        programs.append((push(layer.f), layer.x, layer.V[0]))
    if not layer.no_reverse:
        programs.append((pull(layer.f), layer.x, layer.W[0]))
    found = [solve_residuals(*program) for program in programs]
    residuals = np.concatenate([np.zeros(0), *(f.residuals for f in found)])
    hidden = sum(f.hidden for f in found)
    unseen = f"; {hidden} (in loops, branches) not looked at" if hidden else ""
    if not residuals.size:
        raise Skip("no linear solve" + unseen)
    return float(np.max(residuals)), f"of {residuals.size} linear solves{unseen}"


def second_order(layer: Flat):
    product, how = _hessian(layer)
    w = layer.W[0]
    slope = lambda x: layer.adjoint(x, w)[1]
    least = _least(layer, slope(layer.x))

    def along(v):
        Hv = product(layer.x, v, w)
        error = lambda D: apart(D, Hv, layer.in_sizes, least)
        return _sweep(layer, slope, v, error)

    worst, note = _worst(map(along, layer.V[:2]))
    return worst, f"{how}, {note}"


def symmetry(layer: Flat):
    product, _ = _hessian(layer)
    u, v, w = layer.V[0], layer.V[1], layer.W[0]
    least = _least(layer, u * np.asarray(layer.adjoint(layer.x, w)[1]))
    terms = u * np.asarray(product(layer.x, v, w)), v * np.asarray(product(layer.x, u, w))
    return unequal(*terms, least), "<u, H v> and <v, H u>"


def reverse_over_reverse(layer: Flat):
    for product in layer.hessians:
        if isinstance(product, Exception):
            raise Skip(f"not available: {words(product)}")
    x, v, w = layer.x, layer.V[0], layer.W[0]
    forward, reverse = (product(x, v, w) for product in layer.hessians)
    least = _least(layer, layer.adjoint(x, w)[1])
    return apart(forward, reverse, layer.in_sizes, least), "and forward over reverse"


def _hessian(layer: Flat) -> tuple[Callable, str]:
    """The product with the Hessian that is there, and its name."""
    for name, product in zip(("forward", "reverse"), layer.hessians, strict=True):
        if not isinstance(product, Exception):
            return product, f"{name} over reverse"
    raise Skip(f"not available: {words(layer.hessians[0])}")


def _least(layer: Flat, y) -> float:
    """A change smaller than this cannot be told from round-off of `y`."""
    return layer.eps**0.5 * float(np.linalg.norm(y))


def _sweep(layer: Flat, fn: Callable, v, error: Callable) -> tuple[float, float]:
    """The error of the differences of `fn` along `v`, and the step at which it is least.

    `error`: of a difference, `(m,)`. Two neighbours must agree, so that a wrong derivative
    is not hit by chance where round-off or truncation carry the difference past it.
    """
    steps = STEPS[: max(3, int(np.sum(STEPS > layer.eps ** (2 / 3))))]
    central = [_central(fn, layer.x, float(h), v) for h in steps]
    errors = np.full(len(steps) - 1, np.inf)
    for k, (coarse, fine) in enumerate(itertools.pairwise(central)):
        if not isinstance(coarse, Exception) and not isinstance(fine, Exception):
            errors[k] = error((RATIO**2 * fine - coarse) / (RATIO**2 - 1))
    if isinstance(central[-1], Exception):
        raise central[-1]
    pairs = np.maximum(errors[1:], errors[:-1])
    pairs[np.isnan(pairs)] = np.inf
    k = int(np.argmin(pairs))
    return float(pairs[k]), float(steps[k + 1])


def _central(fn: Callable, x, h: float, v):
    try:
        ahead, behind = (np.asarray(fn(x + v.dtype.type(s) * v), float) for s in (h, -h))
    except Exception as error:  # far from x the function may well raise
        return error
    return (ahead - behind) / (2 * h)


def _worst(found) -> tuple[float, str]:
    error, step = max(found)
    if np.isinf(error):
        return error, "no finite difference near the arguments"
    return error, f"best step {step:.0e}"
