"""Quadrature on the reference simplex {x >= 0, Σ x <= 1} and cube [0, 1]^dim."""

import functools
import math

import numpy as np

from .cells import CellType


def rule(cell: CellType, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights on the reference cell; on cubes, exact up to `degree` in each
    coordinate."""
    return (simplex if cell.simplex else cube)(cell.dim, degree)


@functools.cache
def simplex(dim: int, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Points `(n, dim)` and weights `(n,)` exact for polynomials up to `degree`.

    The weights are positive and sum to 1/dim!. Symmetric rules where a short one is
    known: degree 2 with dim + 1 points (Hammer and Stroud 1956,
    doi:10.1090/S0025-5718-1956-0086389-6), degree 4 with 6 points on triangles (Strang
    and Fix 1973, Table 4.1). Else products of Gauss-Jacobi rules in collapsed
    coordinates (Stroud 1971, Approximate Calculation of Multiple Integrals, 2.4).
    """
    _check(degree)
    if dim == 0:
        return np.zeros((1, 0)), np.ones(1)
    if dim == 1 or degree > 4 or (degree > 2 and dim == 3):
        points, weights = _collapsed(dim, degree // 2 + 1)
    elif degree <= 1:
        points = np.full((1, dim), 1 / (dim + 1))
        weights = np.ones(1)
    elif degree == 2:
        a = (1 - 1 / math.sqrt(dim + 2)) / (dim + 1)
        points = _orbit(dim, a)
        weights = np.ones(dim + 1)
    else:
        root = math.sqrt(38 - 44 * math.sqrt(2 / 5))
        share = math.sqrt(213125 - 53320 * math.sqrt(10))
        parts = [(s * root, 620 + s * share) for s in (1, -1)]
        points = np.concatenate([_orbit(2, (8 - math.sqrt(10) + r) / 18) for r, _ in parts])
        weights = np.repeat([w / 3720 for _, w in parts], 3)
    weights = weights / weights.sum() / math.factorial(dim)
    points.flags.writeable = weights.flags.writeable = False
    return points, weights


@functools.cache
def cube(dim: int, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Products of Gauss-Legendre rules, exact up to `degree` in each coordinate."""
    _check(degree)
    t, w = np.polynomial.legendre.leggauss(degree // 2 + 1)
    grid = lambda a: np.stack(np.meshgrid(*[a] * dim, indexing="ij"), -1).reshape(-1, dim)
    points, weights = grid((1 + t) / 2), grid(w / 2).prod(axis=1)
    points.flags.writeable = weights.flags.writeable = False
    return points, weights


def _check(degree) -> None:
    if not isinstance(degree, (int, np.integer)) or degree < 0:
        raise ValueError(
            "A quadrature's `degree` must be a whole number of at least 0.\n"
            f"Got {degree!r}.\nPass e.g. 2."
        )


def _orbit(dim: int, a: float) -> np.ndarray:
    """The points with barycentric coordinates (a, …, a, 1 - dim a), in every order."""
    return np.full((dim + 1, dim), a) + np.eye(dim + 1, dim) * (1 - (dim + 1) * a)


def _collapsed(dim: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """With x₁ = t₁, x₂ = (1 - t₁) t₂, … the volume element is Π (1 - tᵢ)^(dim - i)."""
    from scipy.special import roots_jacobi

    points, weights, left = np.zeros((1, 0)), np.ones(1), np.ones(1)
    for power in reversed(range(dim)):
        t, w = roots_jacobi(n, power, 0)
        t = (1 + t) / 2
        x = (left[:, None] * t).reshape(-1, 1)
        points = np.concatenate([np.repeat(points, n, axis=0), x], axis=1)
        left = (left[:, None] * (1 - t)).ravel()
        weights = (weights[:, None] * w).ravel()
    return points, weights
